{{/* What all pods share. {root, component, values, command, user, state, probes: port, serves metrics, ...} */}}

{{- define "fedmq.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "fedmq.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* {root, image} */}}
{{- define "fedmq.image" -}}
{{- $image := mergeOverwrite (deepCopy .root.Values.image) (deepCopy (default dict .image)) -}}
image: {{ printf "%s:%s" $image.repository (default .root.Chart.AppVersion $image.tag) | quote }}
imagePullPolicy: {{ $image.pullPolicy }}
{{- end -}}

{{/* The file that --config names: settings of the command, less those that are variables and would win. {root, values} */}}
{{- define "fedmq.config" -}}
{{- $own := splitList " " "broker queue run task name state metrics_port metrics_host hung_after_s token allowed_hosts trusted_network roster roster_key key tls_ca shards role shard stay host port connect_timeout_s" -}}
{{- $merged := mergeOverwrite (deepCopy .root.Values.settings) (deepCopy .values.settings) -}}
{{- range $name, $_ := $merged -}}
{{- if has ($name | replace "-" "_") $own -}}
{{- fail (printf "settings.%s: the chart gives it to the command itself, by a value of its own" $name) -}}
{{- end -}}
{{- end -}}
{{- if $merged -}}
{{ toYaml $merged }}
{{- else -}}
{}
{{- end -}}
{{- end -}}

{{/* {root, component, values, user, port, state} */}}
{{- define "fedmq.env" -}}
{{- $root := .root -}}
{{- $secret := include "fedmq.credentials" (dict "root" $root "user" .user "credentialsSecret" .values.credentialsSecret) -}}
- name: BROKER_USER
  valueFrom: {secretKeyRef: {name: {{ $secret | quote }}, key: username}}
- name: BROKER_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ $secret | quote }}, key: password}}
- name: FEDMQ_BROKER
  value: {{ include "fedmq.brokerUrl" $root | quote }}
- name: FEDMQ_QUEUE
  value: {{ $root.Values.queue | quote }}
- name: FEDMQ_CONNECT_TIMEOUT_S
  value: "600"
{{- if and $root.Values.broker.tls.enabled $root.Values.broker.tls.caSecret }}
- name: FEDMQ_TLS_CA
  value: /tls/{{ $root.Values.broker.tls.caKey }}
{{- end }}
{{- if $root.Values.trustedNetwork }}
- name: FEDMQ_TRUSTED_NETWORK
  value: "true"
{{- end }}
{{- if $root.Values.token.secretName }}
- name: FEDMQ_TOKEN
  valueFrom: {secretKeyRef: {name: {{ $root.Values.token.secretName | quote }}, key: {{ $root.Values.token.key | quote }}}}
{{- end }}
{{- if .state }}
{{- /* below the volume, which is open to all: a process closes the directory that it makes */}}
- name: FEDMQ_STATE
  value: {{ .state | quote }}
{{- end }}
{{- if ne .component "page" }}
- name: FEDMQ_METRICS_PORT
  value: "9109"
- name: FEDMQ_METRICS_HOST
  value: 0.0.0.0
- name: FEDMQ_HUNG_AFTER_S
  value: {{ .values.hungAfterSeconds | int64 | quote }}
{{- end }}
{{- if $root.Values.identity.rosterConfigMap }}
- name: FEDMQ_ROSTER
  value: /roster/roster.yaml
- name: FEDMQ_ROSTER_KEY
  value: {{ required "identity.rosterKey: the fingerprint of the admin's key goes with identity.rosterConfigMap" $root.Values.identity.rosterKey | quote }}
{{- if ne .component "page" }}
- name: FEDMQ_KEY
  value: /keys/{{ required (printf "%s.identity.name: with a roster, everybody needs a key" .component) .values.identity.name }}.key
{{- end }}
{{- end }}
- name: HOME
  value: /tmp
- name: OMP_NUM_THREADS
  value: "1"
{{- end -}}

{{/* Probes of a port: {port, startupSeconds} */}}
{{- define "fedmq.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: {{ .port }}}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ max 1 (div (int .startupSeconds) 5) }}
readinessProbe:
  httpGet: {path: /readyz, port: {{ .port }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 1
livenessProbe:
  httpGet: {path: /healthz, port: {{ .port }}}
  periodSeconds: 20
  timeoutSeconds: 10
  failureThreshold: 3
{{- end -}}

{{/* Volumes of every pod. {root, component, values, state: the volume of the state, as YAML} */}}
{{- define "fedmq.volumes" -}}
- name: tmp
  emptyDir: {}
- name: config
  configMap: {name: {{ include "fedmq.object" (dict "root" .root "name" .component) }}}
{{- with .root.Values.taskFiles }}
- name: task
  configMap: {name: {{ . | quote }}}
{{- end }}
{{- if and .root.Values.broker.tls.enabled .root.Values.broker.tls.caSecret }}
- name: tls
  secret:
    secretName: {{ .root.Values.broker.tls.caSecret | quote }}
    items: [{key: {{ .root.Values.broker.tls.caKey | quote }}, path: {{ .root.Values.broker.tls.caKey | quote }}}]
{{- end }}
{{- if .root.Values.identity.rosterConfigMap }}
- name: roster
  configMap: {name: {{ .root.Values.identity.rosterConfigMap | quote }}}
{{- if ne .component "page" }}
- name: keys-given
  secret: {secretName: {{ required (printf "%s.identity.secretName: the Secret with its key" .component) .values.identity.secretName | quote }}}
- name: keys
  emptyDir: {medium: Memory}
{{- end }}
{{- end }}
{{- end -}}

{{- define "fedmq.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: config, mountPath: /config, readOnly: true}
{{- if .root.Values.taskFiles }}
- {name: task, mountPath: /task, readOnly: true}
{{- end }}
{{- if and .root.Values.broker.tls.enabled .root.Values.broker.tls.caSecret }}
- {name: tls, mountPath: /tls, readOnly: true}
{{- end }}
{{- if .root.Values.identity.rosterConfigMap }}
- {name: roster, mountPath: /roster, readOnly: true}
{{- if ne .component "page" }}
- {name: keys, mountPath: /keys, readOnly: true}
{{- end }}
{{- end }}
{{- end -}}

{{/* A key that others can read is refused, and the files of a Secret are its group's: so it is copied first. A pod asks
     for the most of its containers at either time, so the copy may have what the command has; and with limits of the
     same kinds, a quota that counts them takes it. */}}
{{- define "fedmq.keyCopy" -}}
{{- if and .root.Values.identity.rosterConfigMap (ne .component "page") }}
initContainers:
  - name: keys
    {{- include "fedmq.image" (dict "root" .root "image" .values.image) | nindent 4 }}
    command: [sh, -ec, "umask 077; cp /keys-given/* /keys/"]
    securityContext:
      {{- include "fedmq.containerSecurity" . | nindent 6 }}
    resources:
      requests: {{ pick (default dict .values.resources.requests) "cpu" "memory" "ephemeral-storage" | toJson }}
      limits: {{ pick (default dict .values.resources.limits) "cpu" "memory" "ephemeral-storage" | toJson }}
    volumeMounts:
      - {name: keys-given, mountPath: /keys-given, readOnly: true}
      - {name: keys, mountPath: /keys}
{{- end }}
{{- end -}}

{{/* Where it runs, and how it ends. {root, values} */}}
{{- define "fedmq.placing" -}}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ int .values.terminationGracePeriodSeconds }}
securityContext:
  {{- include "fedmq.podSecurity" . | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* A command's settings as a ConfigMap: {root, component, values} */}}
{{- define "fedmq.configMap" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "fedmq.object" (dict "root" .root "name" .component) }}
  labels:
    {{- include "fedmq.labels" (dict "root" .root "component" .component) | nindent 4 }}
data:
  fedmq.yaml: |
    {{- include "fedmq.config" . | nindent 4 }}
{{- end -}}
