{{/* Names. Those of Services begin with a letter and have no dot; any release name gives one of 40 characters at most. */}}
{{- define "fraud.name" -}}
{{- $clean := .Release.Name | replace "." "-" -}}
{{- if regexMatch "^[0-9]" $clean }}{{ $clean = printf "r%s" $clean }}{{ end -}}
{{- if or (ne $clean .Release.Name) (gt (len $clean) 40) -}}
{{- printf "%s-%s" (regexReplaceAll "-+$" (trunc 29 $clean) "") (sha256sum .Release.Name | trunc 10) -}}
{{- else -}}{{ $clean }}{{- end -}}
{{- end -}}

{{/* In the namespace of Kubeflow Pipelines: the hash keeps releases of all namespaces apart; 42 characters at most. */}}
{{- define "fraud.kfp.name" -}}
{{- $release := .Release.Name | replace "." "-" | trunc 15 -}}
{{- $hash := printf "%s/%s" .Release.Namespace .Release.Name | sha256sum | trunc 10 -}}
{{- printf "%s-%s-%s" $release (trunc 15 .Release.Namespace) $hash -}}
{{- end -}}

{{/* URL of a part's Service: (dict "root" $ "part" "detector" "port" 8082) */}}
{{- define "fraud.url" -}}
http://{{ include "fraud.name" .root }}-{{ .part }}.{{ .root.Release.Namespace }}.svc.{{ .root.Values.clusterDomain }}:{{ .port }}
{{- end -}}

{{/* Labels: (dict "root" $ "part" "detector") */}}
{{- define "fraud.selector" -}}
app.kubernetes.io/name: fraud-platform
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .part }}
{{- end -}}

{{- define "fraud.labels" -}}
{{ include "fraud.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end -}}

{{/* An image: (dict "root" $ "of" "detector") */}}
{{- define "fraud.image" -}}
{{- $images := .root.Values.images -}}
{{- $image := get $images .of -}}
{{- $tag := $images.tag | default .root.Chart.AppVersion -}}
{{- if eq $tag "latest" }}{{ fail "images.tag: latest names no image; give a version" }}{{ end -}}
{{- with $images.registry }}{{ . }}/{{ end -}}
{{ $image.repository }}{{ if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $tag }}{{ end -}}
{{- end -}}

{{/* Security: of a container, and of a pod whose user is .uid */}}
{{- define "fraud.security.container" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: {{ . }}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* What the spec of every pod begins with: (dict "root" $ "account" name "token" false "uid" 10001) */}}
{{- define "fraud.pod" -}}
serviceAccountName: {{ .account | quote }}
automountServiceAccountToken: {{ .token | default false }}
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .uid }}
  runAsGroup: {{ .uid }}
  fsGroup: {{ .uid }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- range $key := list "nodeSelector" "tolerations" "affinity" }}
{{- with get $.root.Values $key }}
{{ $key }}: {{ toJson . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Environment of every container of ours. */}}
{{- define "fraud.env" -}}
- {name: FRAUD_SETTINGS, value: /etc/fraud/settings.yaml}
- {name: FRAUD_STATE, value: /state}
- {name: HOME, value: /tmp}
{{- end -}}

{{/* URL of a part's database: (dict "root" $ "part" "detector" "variable" "FRAUD__DETECTOR__DATABASE") */}}
{{- define "fraud.database" -}}
{{- $values := .root.Values.postgresql -}}
{{- if $values.enabled }}
- name: DATABASE_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "fraud.database.secret" .root }}, key: {{ .part }}}}
- name: {{ .variable }}
  value: {{ .scheme | default "postgresql" }}://{{ .part }}:$(DATABASE_PASSWORD)@{{ include "fraud.name" .root }}-postgresql.{{ .root.Release.Namespace }}.svc.{{ .root.Values.clusterDomain }}:5432/{{ .part }}
{{- else }}
- name: {{ .variable }}
  valueFrom: {secretKeyRef: {name: {{ include "fraud.database.secret" .root }}, key: {{ .part }}-url}}
{{- end }}
{{- end -}}

{{- define "fraud.database.secret" -}}
{{- if and (not .Values.postgresql.enabled) (not .Values.postgresql.existingSecret) }}
{{- fail "postgresql.existingSecret: without PostgreSQL here it must name a Secret with detector-url, launcher-url and mlflow-url" }}
{{- end -}}
{{ .Values.postgresql.existingSecret | default (printf "%s-postgresql" (include "fraud.name" .)) }}
{{- end -}}

{{/* Bundles, the one setting, for each kind of reader. */}}
{{- define "fraud.bundles.path" -}}
{{- with .Values.bundles -}}
{{- if eq .kind "s3" -}}s3://{{ .s3.bucket }}/{{ .prefix }}
{{- else if eq .kind "azure" -}}abfs://{{ .azure.container }}@{{ required "bundles.azure.account: names the storage account" .azure.account }}.dfs.core.windows.net/{{ .prefix }}
{{- else -}}/bundles/{{ .prefix }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "fraud.bundles.uri" -}}
{{- if eq .Values.bundles.kind "azure" -}}
https://{{ .Values.bundles.azure.account }}.blob.core.windows.net/{{ .Values.bundles.azure.container }}/{{ .Values.bundles.prefix }}
{{- else if eq .Values.bundles.kind "volume" -}}
pvc://{{ include "fraud.bundles.claim" . }}/{{ .Values.bundles.prefix }}
{{- else -}}
{{ include "fraud.bundles.path" . }}
{{- end -}}
{{- end -}}

{{- define "fraud.bundles.claim" -}}
{{ .Values.bundles.volume.existingClaim | default (printf "%s-bundles" (include "fraud.name" .)) }}
{{- end -}}

{{/* The Secret of the store in this namespace; empty where identities do without. */}}
{{- define "fraud.bundles.secret" -}}
{{- with .Values.bundles -}}
{{- if ne .kind "s3" -}}
{{- else if .s3.existingSecret }}{{ .s3.existingSecret }}
{{- else if .s3.accessKeyId }}{{ include "fraud.name" $ }}-bundles
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "fraud.bundles.store" -}}
{{- if eq .Values.bundles.kind "s3" -}}
AWS_REGION: {{ .Values.bundles.s3.region | quote }}
{{- with .Values.bundles.s3.endpoint }}
AWS_ENDPOINT_URL: {{ . | quote }}
{{- end }}
{{- else if eq .Values.bundles.kind "azure" -}}
AZURE_STORAGE_ACCOUNT_NAME: {{ .Values.bundles.azure.account | quote }}
{{- end }}
{{- end -}}

{{- define "fraud.bundles.env" -}}
{{- range $name, $value := include "fraud.bundles.store" . | fromYaml }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- with include "fraud.bundles.secret" . }}
{{- range list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
- name: {{ . }}
  valueFrom: {secretKeyRef: {name: {{ $.secret | default (include "fraud.bundles.secret" $) }}, key: {{ . }}}}
{{- end }}
{{- end }}
{{- end -}}

{{/* What a cloud's identity asks of pods, and of their ServiceAccounts. */}}
{{- define "fraud.bundles.labels" -}}
{{- if eq .Values.bundles.kind "azure" -}}
azure.workload.identity/use: "true"
{{- end -}}
{{- end -}}

{{- define "fraud.bundles.annotations" -}}
{{- $own := dict -}}
{{- if eq .Values.bundles.kind "azure" }}{{ $_ := set $own "azure.workload.identity/client-id" (required "bundles.azure.clientId: names the managed identity" .Values.bundles.azure.clientId) }}{{ end -}}
{{- with merge (deepCopy .Values.serviceAccountAnnotations) $own -}}
annotations: {{ toJson . }}
{{- end -}}
{{- end -}}

{{/* The Secret of the store, which the chart makes where keys are given: (dict "root" $ "name" … "namespace" … "part" …) */}}
{{- define "fraud.secret.s3" -}}
apiVersion: v1
kind: Secret
metadata:
  name: {{ .name }}
  namespace: {{ .namespace | quote }}
  labels: {{- include "fraud.labels" . | nindent 4 }}
  annotations:
    {{- with .root.Values.bundles.s3 }}
    serving.kserve.io/s3-region: {{ .region | quote }}
    {{- with .endpoint }}
    serving.kserve.io/s3-endpoint: {{ regexReplaceAll "^https?://" . "" | quote }}
    serving.kserve.io/s3-usehttps: {{ hasPrefix "http://" . | ternary "0" "1" | quote }}
    {{- end }}
    {{- end }}
type: Opaque
stringData:
  AWS_ACCESS_KEY_ID: {{ .root.Values.bundles.s3.accessKeyId | quote }}
  AWS_SECRET_ACCESS_KEY: {{ .root.Values.bundles.s3.secretAccessKey | quote }}
{{- end -}}

{{- define "fraud.mlflow.uri" -}}
{{- if .Values.mlflow.enabled -}}
{{ include "fraud.url" (dict "root" . "part" "mlflow" "port" 5000) }}
{{- else -}}
{{ required "mlflow.uri: without MLflow here it must say where it is" .Values.mlflow.uri }}
{{- end -}}
{{- end -}}

{{/* Environment of the tasks in that namespace, and the Secret of the store there; empty where an identity does without. */}}
{{- define "fraud.kfp.environment" -}}
HOME: /tmp
{{ include "fraud.bundles.store" . }}
{{- end -}}

{{- define "fraud.kfp.secret" -}}
{{- with .Values.bundles -}}
{{- if ne .kind "s3" -}}
{{- else if $.Values.kfp.existingSecret }}{{ $.Values.kfp.existingSecret }}
{{- else if .s3.existingSecret }}{{ fail "kfp.existingSecret: bundles.s3.existingSecret names a Secret of this namespace alone; name its like in that of Kubeflow Pipelines" }}
{{- else if .s3.accessKeyId }}{{ include "fraud.kfp.name" $ }}-bundles
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Where KServe's predictor answers within the cluster, whatever its ingress is. */}}
{{- define "fraud.model.url" -}}
http://fraud-predictor.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end -}}

{{- define "fraud.kfp.url" -}}
{{ .Values.kfp.url | default (printf "http://ml-pipeline.%s:8888" .Values.kfp.namespace) }}
{{- end -}}

{{/* Name of the ServingRuntime: its content decides. */}}
{{- define "fraud.runtime.name" -}}
{{ include "fraud.name" . }}-serving-{{ include "fraud.runtime.spec" . | sha256sum | trunc 10 }}
{{- end -}}

{{/* Settings of all parts: the chart's, and over them those of the values. */}}
{{- define "fraud.settings" -}}
{{- $given := deepCopy .Values.settings -}}
{{- $engine := required "detector.engine must be chosen: `scipy` is ours; `alibi` is alibi-detect, under the Business Source License 1.1: free for non-production use, in production it needs a licence from Seldon (README, Licences)" .Values.detector.engine -}}
{{- if ne (dig "detector" "engine" $engine $given) $engine }}{{ fail "settings.detector.engine says otherwise than detector.engine; leave it out" }}{{ end -}}
{{- $launcher := include "fraud.url" (dict "root" . "part" "launcher" "port" 8083) -}}
{{- $detector := include "fraud.url" (dict "root" . "part" "detector" "port" 8082) -}}
{{- $rollout := include "fraud.url" (dict "root" . "part" "rollout" "port" 8084) -}}
{{- $sinks := concat (list (printf "%s/" $launcher) (printf "%s/" $detector)) (dig "events" "sinks" list $given) -}}
{{- $common := dict
  "bundles" (include "fraud.bundles.path" .)
  "tracking" (dict "uri" (include "fraud.mlflow.uri" .))
  "detector" (dict "url" $detector "engine" $engine)
  "rollout" (dict "url" $rollout)
-}}
{{- $runs := dict "url" $launcher "backend" "local" "schedule" true -}}
{{- if .Values.kfp.enabled -}}
{{- $steps := mustMergeOverwrite (deepCopy $common) (dict "state" "/tmp/fraud") (pick (deepCopy $given) "data" "sampling" "training" "alerts" "gate" "tracking" "retrain" "labels") -}}
{{- $kfp := dict
  "url" (include "fraud.kfp.url" .)
  "service_account" (printf "%s-run" (include "fraud.kfp.name" .))
  "image" (include "fraud.image" (dict "root" . "of" "pipelines"))
  "settings" (toJson $steps)
  "pods" (dict
    "config_map" (printf "%s-settings" (include "fraud.kfp.name" .))
    "variables" (include "fraud.kfp.environment" . | fromYaml | keys | sortAlpha)
    "labels" (include "fraud.bundles.labels" . | fromYaml)
    "pull_secrets" .Values.images.pullSecrets
    "pull_policy" .Values.images.pullPolicy
    "user" (int .Values.uid)
    "node_selector" .Values.nodeSelector
    "tolerations" .Values.tolerations
    "resources" .Values.kfp.resources
  )
-}}
{{- with include "fraud.kfp.secret" . }}{{ $_ := set $kfp.pods "secret" . }}{{ end -}}
{{- if .Values.kfp.tokenAudience }}{{ $_ := set $kfp "token" "/var/run/secrets/kfp/token" }}{{ end -}}
{{- $runs = dict "url" $launcher "results" $launcher "backend" "kfp" "kfp" $kfp -}}
{{- end -}}
{{- $own := dict
  "state" "/state"
  "launcher" $runs
  "rollout" (dict
    "target" "kserve"
    "namespace" .Release.Namespace
    "template" "/etc/fraud-template/template.yaml"
    "storage_uri" (include "fraud.bundles.uri" .)
    "poll_seconds" 5
  )
  "events" (dict "launcher" $launcher)
  "console" (dict "model" (include "fraud.model.url" .))
-}}
{{- if and .Values.console.enabled (not (dig "console" "user_header" "" $given)) }}{{ fail "settings.console.user_header: console.enabled needs an authenticating proxy in front of the page, and the header in which it names the user" }}{{ end -}}
{{- $all := mustMergeOverwrite $own $common $given -}}
{{- $_ := set $all.events "sinks" $sinks -}}
{{- toYaml $all -}}
{{- end -}}

{{/* Volumes that every part has, and their mounts. */}}
{{- define "fraud.volumes" -}}
- name: settings
  configMap: {name: {{ include "fraud.name" . }}-settings}
- {name: state, emptyDir: {}}
- {name: tmp, emptyDir: {}}
{{- if eq .Values.bundles.kind "volume" }}
- name: bundles
  persistentVolumeClaim: {claimName: {{ include "fraud.bundles.claim" . }}}
{{- end }}
{{- end -}}

{{- define "fraud.mounts" -}}
- {name: settings, mountPath: /etc/fraud, readOnly: true}
- {name: state, mountPath: /state}
- {name: tmp, mountPath: /tmp}
{{- if eq .Values.bundles.kind "volume" }}
- {name: bundles, mountPath: /bundles}
{{- end }}
{{- end -}}

{{/* A part: Deployment, Service where it has a port, and disruption budget.
     (dict "root" $ "part" … "image" … "command" (list …) "values" … "port" … "replicas" … "recreate" … "env" … "volumes" …
      "mounts" … "migrate" (list …) "account" … "token" … "probes" where there is no port, "foreign" where no settings are read) */}}
{{- define "fraud.part" -}}
{{- $name := printf "%s-%s" (include "fraud.name" .root) .part -}}
{{- $of := dict "root" .root "part" .part -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  labels: {{- include "fraud.labels" $of | nindent 4 }}
spec:
  replicas: {{ .replicas | default 1 }}
  {{- if .recreate }}
  strategy: {type: Recreate}
  {{- else }}
  strategy: {type: RollingUpdate, rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  {{- end }}
  selector:
    matchLabels: {{- include "fraud.selector" $of | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "fraud.selector" $of | nindent 8 }}
        {{- with include "fraud.bundles.labels" .root }}{{ . | nindent 8 }}{{ end }}
      {{- if not .foreign }}
      annotations:
        checksum/settings: {{ include "fraud.settings" .root | sha256sum }}
      {{- end }}
    spec:
      {{- include "fraud.pod" (dict "root" .root "account" (.account | default (include "fraud.name" .root)) "token" .token "uid" .root.Values.uid) | nindent 6 }}
      terminationGracePeriodSeconds: 40
      {{- with .migrate }}
      initContainers:
        - name: migrate
          image: {{ include "fraud.image" (dict "root" $.root "of" $.image) }}
          imagePullPolicy: {{ $.root.Values.images.pullPolicy }}
          command: {{ toJson . }}
          env:
            {{- include "fraud.env" $.root | nindent 12 }}
            {{- $.env | nindent 12 }}
          resources: {{ toJson $.values.resources }}
          securityContext: {{- include "fraud.security.container" $.root.Values.uid | nindent 12 }}
          volumeMounts: {{- include "fraud.mounts" $.root | nindent 12 }}
      {{- end }}
      containers:
        - name: {{ .part }}
          image: {{ include "fraud.image" (dict "root" .root "of" .image) }}
          imagePullPolicy: {{ .root.Values.images.pullPolicy }}
          command: {{ toJson .command }}
          env:
            {{- include "fraud.env" .root | nindent 12 }}
            {{- with include "fraud.bundles.env" .root | trim }}{{ . | nindent 12 }}{{ end }}
            {{- with .env }}{{ . | nindent 12 }}{{ end }}
          {{- if .port }}
          ports:
            - {name: http, containerPort: {{ .port }}}
          startupProbe: {httpGet: {path: {{ .health | default "/health" }}, port: http}, periodSeconds: 2, timeoutSeconds: 3, failureThreshold: 150}
          readinessProbe: {httpGet: {path: {{ .health | default "/health" }}, port: http}, periodSeconds: 5, timeoutSeconds: 3}
          livenessProbe: {httpGet: {path: {{ .health | default "/health" }}, port: http}, periodSeconds: 15, timeoutSeconds: 5, failureThreshold: 4}
          {{- if not .recreate }}
          lifecycle: {preStop: {sleep: {seconds: 5}}}
          {{- end }}
          {{- else }}
          {{- .probes | nindent 10 }}
          {{- end }}
          resources: {{ toJson .values.resources }}
          securityContext: {{- include "fraud.security.container" .root.Values.uid | nindent 12 }}
          volumeMounts:
            {{- include "fraud.mounts" .root | nindent 12 }}
            {{- with .mounts }}{{ . | nindent 12 }}{{ end }}
      volumes:
        {{- include "fraud.volumes" .root | nindent 8 }}
        {{- with .volumes }}{{ . | nindent 8 }}{{ end }}
{{- if .port }}
---
{{ include "fraud.service" (dict "root" .root "part" .part "port" .port) }}
{{- end }}
{{- if .root.Values.podDisruptionBudgets.enabled }}
---
{{ include "fraud.budget" $of }}
{{- end }}
{{- end -}}

{{- define "fraud.service" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "fraud.name" .root }}-{{ .part }}
  labels: {{- include "fraud.labels" . | nindent 4 }}
spec:
  selector: {{- include "fraud.selector" . | nindent 4 }}
  ports:
    - {name: http, port: {{ .port }}, targetPort: http}
{{- end -}}

{{- define "fraud.budget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "fraud.name" .root }}-{{ .part }}
  labels: {{- include "fraud.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels: {{- include "fraud.selector" . | nindent 6 }}
{{- end -}}

{{/* The pod of a job, a hook or a test: (dict "root" $ "part" … "image" … "command" (list …) "env" … "account" … "token" …) */}}
{{- define "fraud.short" -}}
{{- include "fraud.pod" (dict "root" .root "account" (.account | default (include "fraud.name" .root)) "token" .token "uid" .root.Values.uid) }}
restartPolicy: {{ .restart | default "Never" }}
containers:
  - name: {{ .part }}
    image: {{ include "fraud.image" (dict "root" .root "of" .image) }}
    imagePullPolicy: {{ .root.Values.images.pullPolicy }}
    command: {{ toJson .command }}
    env:
      - {name: HOME, value: /tmp}
      {{- with .env }}{{ . | nindent 6 }}{{ end }}
    resources: {{ toJson .root.Values.jobs.resources }}
    securityContext: {{- include "fraud.security.container" .root.Values.uid | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
volumes:
  - {name: tmp, emptyDir: {}}
{{- end -}}
