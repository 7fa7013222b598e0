#!/usr/bin/env bash
# What the platform stands on, in the cluster that kubectl reaches, at the versions of versions.env.
#   components.sh cert-manager|knative|kserve|kfp [OPTION…]     options go on to helm
# Each part can be run again. DRY_RUN=1 prints what would be done.
set -euo pipefail
cd "$(dirname "$0")"
source ./versions.env
run() { if [[ -n ${DRY_RUN:-} ]]; then echo "+ ${*@Q}"; else "$@"; fi; }
ready() { run kubectl -n "$1" rollout status "$2" --timeout=15m; }

cert-manager() {
  run helm upgrade --install cert-manager oci://quay.io/jetstack/charts/cert-manager --version "$CERT_MANAGER_VERSION" \
    --namespace cert-manager --create-namespace --set crds.enabled=true --wait --timeout 15m "$@"
}

knative() {
  local serving=https://github.com/knative/serving/releases/download/knative-$KNATIVE_VERSION
  run kubectl apply -f "$serving/serving-crds.yaml"
  run kubectl wait --for=condition=Established --all crd --timeout=120s
  run kubectl apply -f "$serving/serving-core.yaml"
  run kubectl apply -f "https://github.com/knative-extensions/net-kourier/releases/download/knative-$KOURIER_VERSION/kourier.yaml"
  for part in activator autoscaler controller webhook net-kourier-controller; do ready knative-serving "deploy/$part"; done
  ready kourier-system deploy/3scale-kourier-gateway
  # Domain claims: a DomainMapping of the chart (`serving.domain.host`) needs one.
  run kubectl -n knative-serving patch configmap config-network --type merge -p \
    '{"data": {"ingress-class": "kourier.ingress.networking.knative.dev", "autocreate-cluster-domain-claims": "true"}}'
  # A PersistentVolumeClaim in a revision, for `bundles.kind: volume`.
  run kubectl -n knative-serving patch configmap config-features --type merge -p \
    '{"data": {"kubernetes.podspec-persistent-volume-claim": "enabled"}}'
}

kserve() {
  local charts=oci://ghcr.io/kserve/charts
  run helm upgrade --install kserve-crd "$charts/kserve-crd" --version "$KSERVE_VERSION" \
    --namespace kserve --create-namespace --wait
  # Without Istio: KServe's own virtual host would wait for it.
  run helm upgrade --install kserve "$charts/kserve-resources" --version "$KSERVE_VERSION" --namespace kserve \
    --set kserve.controller.deploymentMode=Knative --set kserve.controller.gateway.disableIstioVirtualHost=true \
    --wait --timeout 15m "$@"
}

kfp() {
  local source=github.com/kubeflow/pipelines/manifests/kustomize overlay
  run kubectl apply -k "$source/cluster-scoped-resources?ref=$KFP_VERSION"
  run kubectl wait --for=condition=Established --timeout=120s crd/applications.app.k8s.io crd/cronworkflows.argoproj.io
  # Its object store's keys are known to everybody: leave that Secret out, and make one with keys of this cluster, once.
  if [[ -n ${DRY_RUN:-} ]] || ! kubectl -n kubeflow get secret mlpipeline-minio-artifact -o name 2>/dev/null; then
    run kubectl -n kubeflow create secret generic mlpipeline-minio-artifact \
      --from-literal=accesskey="$(key)" --from-literal=secretkey="$(key)"
  fi
  overlay=$(mktemp -d)
  cat >"$overlay/kustomization.yaml" <<EOF
resources: ["$source/env/platform-agnostic?ref=$KFP_VERSION"]
patches:
  - patch: '{"\$patch": "delete", "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mlpipeline-minio-artifact", "namespace": "kubeflow"}}'
EOF
  run kubectl apply -k "$overlay"
  rm -r "$overlay"
  for part in workflow-controller mysql seaweedfs ml-pipeline; do ready kubeflow "deploy/$part"; done
}

key() { if [[ -n ${DRY_RUN:-} ]]; then echo '…'; else od -An -N16 -tx1 /dev/urandom | tr -d ' \n'; fi; }

case ${1:-} in
  cert-manager | knative | kserve | kfp) "$@" ;;
  *) sed -n '2,4s/^# //p' components.sh >&2; exit 2 ;;
esac
