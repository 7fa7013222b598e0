#!/usr/bin/env bash
# From an empty Azure subscription to a release. Each part can be run again.
#   up.sh [PART…]     group network registry cluster storage identities dns components gateway tls monitoring images
#                     data release; credentials and github only by name. Values: site.env, or the file that SITE names.
# DRY_RUN=1 prints what would be done.
set -euo pipefail
shopt -s inherit_errexit
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
source "$root/manifests/versions.env"
source "${SITE:-$here/site.env}"

parts=(group network registry cluster storage identities dns components gateway tls monitoring images data release)
container=fraud
images=${IMAGES:-$here/images.yaml}
tag=$(sed -n 's/^appVersion: //p' "$root/helm/fraud-platform/Chart.yaml")

run() { if [[ -n ${DRY_RUN:-} ]]; then echo "+ ${*@Q}"; else "$@"; fi; }
there() { [[ -z ${DRY_RUN:-} ]] && "$@" --output none 2>/dev/null; }
# What Azure or the cluster says; a dry run knows its name only.
ask() {
  local said
  if [[ -n ${DRY_RUN:-} ]]; then echo "+ ${*:2}" >&2 && echo "<$1>" && return; fi
  said=$("${@:2}") && [[ -n $said ]] || { echo "no answer: $1" >&2 && kill $$; }
  echo "$said"
}
apply() { if [[ -n ${DRY_RUN:-} ]]; then echo "+ kubectl apply -f -" && cat; else kubectl apply -f -; fi; }

group() {
  for one in Compute ContainerRegistry ContainerService ManagedIdentity Network Storage; do
    run az provider register --namespace "Microsoft.$one" --wait
  done
  run az group create --name "$GROUP" --location "$LOCATION"
}

network() {
  there az network vnet show --resource-group "$GROUP" --name "$CLUSTER" ||
    run az network vnet create --resource-group "$GROUP" --name "$CLUSTER" --address-prefixes 10.224.0.0/16 \
      --subnet-name nodes --subnet-prefixes 10.224.0.0/20
  # The storage account admits this subnet and nothing else: no key or address of a node is needed for it.
  run az network vnet subnet update --resource-group "$GROUP" --vnet-name "$CLUSTER" --name nodes \
    --service-endpoints Microsoft.Storage
}
subnet() {
  ask subnet az network vnet subnet show --resource-group "$GROUP" --vnet-name "$CLUSTER" --name nodes \
    --query id --output tsv
}

registry() {
  there az acr show --resource-group "$GROUP" --name "$REGISTRY" ||
    run az acr create --resource-group "$GROUP" --name "$REGISTRY" --sku Standard --admin-enabled false
}

cluster() {
  identity "$CLUSTER-control"
  grant "$CLUSTER-control" "Network Contributor" "$(subnet)"
  # Cilium enforces network policies; the kubelets may pull from the registry, and nobody else.
  there az aks show --resource-group "$GROUP" --name "$CLUSTER" ||
    run az aks create --resource-group "$GROUP" --name "$CLUSTER" --kubernetes-version "$KUBERNETES_VERSION" \
      --tier standard --auto-upgrade-channel patch --node-os-upgrade-channel NodeImage --no-ssh-key \
      --assign-identity "$(of "$CLUSTER-control" id)" --attach-acr "$REGISTRY" \
      --enable-oidc-issuer --enable-workload-identity \
      --enable-aad --aad-admin-group-object-ids "$ADMINS" --disable-local-accounts \
      --network-plugin azure --network-plugin-mode overlay --network-dataplane cilium --vnet-subnet-id "$(subnet)" \
      --pod-cidr 10.244.0.0/16 --service-cidr 10.0.0.0/16 --dns-service-ip 10.0.0.10 \
      --nodepool-name system --node-vm-size Standard_D2s_v5 --zones 1 2 3 \
      --enable-cluster-autoscaler --node-count 2 --min-count 2 --max-count 3 \
      --nodepool-taints CriticalAddonsOnly=true:NoSchedule
  there az aks nodepool show --resource-group "$GROUP" --cluster-name "$CLUSTER" --name platform ||
    run az aks nodepool add --resource-group "$GROUP" --cluster-name "$CLUSTER" --name platform --mode User \
      --node-vm-size Standard_D4s_v5 --zones 1 2 3 \
      --enable-cluster-autoscaler --node-count 3 --min-count 3 --max-count 6
  credentials
}
credentials() {
  run az aks get-credentials --resource-group "$GROUP" --name "$CLUSTER" --overwrite-existing
  run kubelogin convert-kubeconfig --login azurecli
}

storage() {
  local of=(--resource-group "$GROUP" --account-name "$STORAGE")
  # A flat namespace: nothing is ever renamed, and only a flat one keeps versions of blobs.
  there az storage account show --resource-group "$GROUP" --name "$STORAGE" ||
    run az storage account create --resource-group "$GROUP" --name "$STORAGE" --kind StorageV2 --sku Standard_ZRS \
      --enable-hierarchical-namespace false --min-tls-version TLS1_2 --https-only true \
      --allow-blob-public-access false --allow-shared-key-access false --default-action Deny
  run az storage account network-rule add "${of[@]}" --subnet "$(subnet)"
  run az storage account network-rule add "${of[@]}" --ip-address "$OPERATOR"
  run az storage account blob-service-properties update "${of[@]}" --enable-versioning true \
    --enable-delete-retention true --delete-retention-days 30
  run az storage container-rm create --resource-group "$GROUP" --storage-account "$STORAGE" --name "$container"
}
bundles() {
  local account
  account=$(ask storage az storage account show --resource-group "$GROUP" --name "$STORAGE" --query id --output tsv)
  echo "$account/blobServices/default/containers/$container"
}

identities() {
  identity "$CLUSTER-bundles"
  grant "$CLUSTER-bundles" "Storage Blob Data Contributor" "$(bundles)"
  local account
  for account in "$RELEASE" "$RELEASE-rollout" "$RELEASE-predictor"; do
    federate "$CLUSTER-bundles" "$account" "system:serviceaccount:$NAMESPACE:$account"
  done
  # The chart's name in the namespace of Kubeflow Pipelines.
  account=${RELEASE:0:15}-${NAMESPACE:0:15}-$(printf %s "$NAMESPACE/$RELEASE" | sha256sum | cut -c1-10)-run
  federate "$CLUSTER-bundles" "$account" "system:serviceaccount:kubeflow:$account"
}

dns() {
  there az network dns zone show --resource-group "$GROUP" --name "$ZONE" ||
    run az network dns zone create --resource-group "$GROUP" --name "$ZONE"
  identity "$CLUSTER-dns"
  grant "$CLUSTER-dns" "DNS Zone Contributor" \
    "$(ask zone az network dns zone show --resource-group "$GROUP" --name "$ZONE" --query id --output tsv)"
  federate "$CLUSTER-dns" cert-manager system:serviceaccount:cert-manager:cert-manager
}

components() {
  local label='azure\.workload\.identity/use=true'
  run "$root/manifests/components.sh" cert-manager --set-string "podLabels.$label" --set-string "serviceAccount.labels.$label"
  for part in knative kserve kfp; do run "$root/manifests/components.sh" "$part"; done
}

gateway() {
  local ranges ip now
  ranges=$(printf '"%s"' "${CLIENTS//,/\", \"}")
  # TLS alone, and for the clients alone: the predictor asks nobody who they are.
  run kubectl -n kourier-system patch service kourier --type merge -p "{\"spec\": {\"loadBalancerSourceRanges\": [$ranges], \
\"ports\": [{\"name\": \"https\", \"port\": 443, \"protocol\": \"TCP\", \"targetPort\": 8443}]}}"
  run kubectl -n kourier-system wait service/kourier --for 'jsonpath={.status.loadBalancer.ingress[0].ip}' --timeout 5m
  ip=$(ask ip kubectl -n kourier-system get service kourier --output 'jsonpath={.status.loadBalancer.ingress[0].ip}')
  local of=(--resource-group "$GROUP" --zone-name "$ZONE")
  now=$(there az network dns record-set a show "${of[@]}" --name "$HOST" &&
    az network dns record-set a show "${of[@]}" --name "$HOST" --query 'ARecords[0].ipv4Address' --output tsv) || now=none
  if [[ $now != "$ip" ]]; then
    run az network dns record-set a create "${of[@]}" --name "$HOST" --ttl 300
    run az network dns record-set a add-record "${of[@]}" --record-set-name "$HOST" --ipv4-address "$ip"
  fi
}

# By DNS, since the gateway admits its clients alone, and Let's Encrypt is none.
tls() {
  local subscription client
  subscription=$(ask subscription az account show --query id --output tsv)
  client=$(of "$CLUSTER-dns" clientId)
  apply <<EOF
apiVersion: v1
kind: Namespace
metadata: {name: "$NAMESPACE"}
---
apiVersion: cert-manager.io/v1
kind: ClusterIssuer
metadata: {name: letsencrypt}
spec:
  acme:
    server: https://acme-v02.api.letsencrypt.org/directory
    email: "$EMAIL"
    privateKeySecretRef: {name: letsencrypt}
    solvers:
      - dns01:
          azureDNS:
            subscriptionID: "$subscription"
            resourceGroupName: "$GROUP"
            hostedZoneName: "$ZONE"
            environment: AzurePublicCloud
            managedIdentity: {clientID: "$client"}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: fraud-score, namespace: "$NAMESPACE"}
spec:
  secretName: fraud-score-tls
  dnsNames: ["$HOST.$ZONE"]
  issuerRef: {name: letsencrypt, kind: ClusterIssuer}
EOF
  run kubectl -n "$NAMESPACE" wait certificate/fraud-score --for condition=Ready --timeout 10m
}

monitoring() {
  run helm upgrade --install kube-prometheus-stack oci://ghcr.io/prometheus-community/charts/kube-prometheus-stack \
    --version "$PROMETHEUS_STACK_VERSION" --namespace monitoring --create-namespace --wait --timeout 15m
}

images() {
  local target image digest list=$'images:\n'
  run az acr login --name "$REGISTRY"
  for target in predictor detector pipelines console; do
    image=$REGISTRY.azurecr.io/fraud-platform-$target:$tag
    run docker buildx build --platform linux/amd64 --target "$target" --tag "$image" --push \
      --build-arg CODE_COMMIT="$(git -C "$root" rev-parse HEAD)" "$root"
    digest=$(ask "digest of $target" docker buildx imagetools inspect "$image" --format '{{.Manifest.Digest}}')
    list+="  $target: {digest: \"$digest\"}"$'\n'
  done
  if [[ -n ${DRY_RUN:-} ]]; then printf %s "$list"; else printf %s "$list" >"$images"; fi
}

data() {
  local of=(--account-name "$STORAGE" --container-name "$container" --name "$DATA" --auth-mode login)
  run az role assignment create --role "Storage Blob Data Contributor" --scope "$(bundles)" \
    --assignee-principal-type User \
    --assignee-object-id "$(ask me az ad signed-in-user show --query id --output tsv)"
  there az storage blob show "${of[@]}" || run az storage blob upload "${of[@]}" --file "${FILE:-transactions.parquet}"
}

release() {
  run helm upgrade --install "$RELEASE" "${CHART:-$root/helm/fraud-platform}" --namespace "$NAMESPACE" \
    --values "$root/helm/fraud-platform/values-aks.yaml" --values "$images" \
    --set "images.registry=$REGISTRY.azurecr.io" \
    --set "bundles.azure.account=$STORAGE" --set "bundles.azure.container=$container" \
    --set "bundles.azure.clientId=$(of "$CLUSTER-bundles" clientId)" \
    --set "serving.domain.host=$HOST.$ZONE" \
    --set "settings.launcher.data=abfs://$container@$STORAGE.dfs.core.windows.net/$DATA" \
    --wait --timeout 15m
}

# Two identities of release.yaml, without a secret: one pushes images, one deploys.
github() {
  : "${GITHUB:?names no repository}"
  local scope
  scope=$(ask registry az acr show --name "$REGISTRY" --query id --output tsv)
  identity "$CLUSTER-push"
  grant "$CLUSTER-push" AcrPush "$scope"
  federate "$CLUSTER-push" github "repo:$GITHUB:environment:registry" https://token.actions.githubusercontent.com
  identity "$CLUSTER-deploy"
  grant "$CLUSTER-deploy" Reader "$(ask group az group show --name "$GROUP" --query id --output tsv)"
  grant "$CLUSTER-deploy" "Azure Kubernetes Service Cluster User Role" \
    "$(ask cluster az aks show --resource-group "$GROUP" --name "$CLUSTER" --query id --output tsv)"
  federate "$CLUSTER-deploy" github "repo:$GITHUB:environment:production" https://token.actions.githubusercontent.com
  rights "$NAMESPACE" '{apiGroups: ["*"], resources: ["*"], verbs: ["*"]}' | apply
  rights kubeflow '{apiGroups: ["", rbac.authorization.k8s.io, networking.k8s.io, argoproj.io], resources: [serviceaccounts, configmaps, secrets, roles, rolebindings, networkpolicies, cronworkflows, workflowtaskresults], verbs: ["*"]}' \
    '{apiGroups: ["", argoproj.io], resources: [pods, workflows], verbs: [get]}' | apply
  echo "environment registry:   AZURE_CLIENT_ID=$(of "$CLUSTER-push" clientId)"
  echo "environment production: AZURE_CLIENT_ID=$(of "$CLUSTER-deploy" clientId)"
}
rights() {
  local namespace=$1
  cat <<EOF
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: "$RELEASE-deploy", namespace: "$namespace"}
rules:
$(printf '  - %s\n' "${@:2}")
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: "$RELEASE-deploy", namespace: "$namespace"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: "$RELEASE-deploy"}
subjects:
  - {apiGroup: rbac.authorization.k8s.io, kind: User, name: "$(of "$CLUSTER-deploy" principalId)"}
EOF
}

identity() { run az identity create --resource-group "$GROUP" --name "$1"; }
of() { ask "$2 of $1" az identity show --resource-group "$GROUP" --name "$1" --query "$2" --output tsv; }
grant() {
  run az role assignment create --assignee-object-id "$(of "$1" principalId)" --assignee-principal-type ServicePrincipal \
    --role "$2" --scope "$3"
}
federate() {
  local issuer
  issuer=${4:-$(ask issuer az aks show --resource-group "$GROUP" --name "$CLUSTER" --query oidcIssuerProfile.issuerUrl --output tsv)}
  run az identity federated-credential create --resource-group "$GROUP" --identity-name "$1" --name "$2" \
    --issuer "$issuer" --subject "$3" --audiences api://AzureADTokenExchange
}

for part in "${@:-${parts[@]}}"; do
  [[ " ${parts[*]} credentials github " == *" $part "* ]] || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }
  printf '== %s\n' "$part" >&2
  "$part"
done
