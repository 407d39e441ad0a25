{{/* Services are called by it, whose names begin with a letter and have no dots. */}}
{{- define "fedmq.name" -}}
{{- $name := default .Release.Name .Values.nameOverride | trunc 30 | trimSuffix "-" -}}
{{- if not (regexMatch "^[a-z]([a-z0-9-]*[a-z0-9])?$" $name) -}}
{{- fail (printf "%s cannot begin the names of Services: give nameOverride, of lower-case letters, digits and -, a letter first" $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/* A Kubernetes name of a user's, which may have more letters: {root, name} */}}
{{- define "fedmq.object" -}}
{{- $plain := .name | lower | replace "_" "-" | replace "." "-" | trimSuffix "-" -}}
{{- if ne $plain .name -}}{{- $plain = printf "%s-%s" $plain (sha256sum .name | trunc 6) -}}{{- end -}}
{{- printf "%s-%s" (include "fedmq.name" .root) $plain -}}
{{- end -}}

{{/* {root, component} */}}
{{- define "fedmq.selector" -}}
app.kubernetes.io/name: fedmq
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "fedmq.labels" -}}
{{ include "fedmq.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end -}}

{{- define "fedmq.cluster" -}}
{{- default (printf "%s-broker" (include "fedmq.name" .)) .Values.broker.rabbitmqCluster.name -}}
{{- end -}}

{{- define "fedmq.addresses" -}}
{{- if .Values.broker.addresses -}}
{{- join " " .Values.broker.addresses -}}
{{- else if .Values.broker.rabbitmqCluster.create -}}
{{/* each node by its own name, so that a process sees which of them failed */}}
{{- $cluster := include "fedmq.cluster" . -}}
{{- $nodes := list -}}
{{- range until (int .Values.broker.rabbitmqCluster.replicas) -}}
{{- $nodes = append $nodes (printf "%s-server-%d.%s-nodes.%s.svc:%s" $cluster . $cluster $.Release.Namespace (ternary "5671" "5672" $.Values.broker.tls.enabled)) -}}
{{- end -}}
{{- join " " $nodes -}}
{{- else -}}
{{- fail "there is no broker: give broker.addresses, or have one made with broker.rabbitmqCluster.create" -}}
{{- end -}}
{{- end -}}

{{/* FEDMQ_BROKER, with the user and password that the pod has as variables; several addresses with commas between */}}
{{- define "fedmq.brokerUrl" -}}
{{- $scheme := ternary "amqps" "amqp" .Values.broker.tls.enabled -}}
{{- $path := ternary "/" (printf "/%s" (.Values.broker.vhost | urlquery)) (eq .Values.broker.vhost "/") -}}
{{- $urls := list -}}
{{- range splitList " " (include "fedmq.addresses" .) -}}
{{- $urls = append $urls (printf "%s://$(BROKER_USER):$(BROKER_PASSWORD)@%s%s" $scheme . $path) -}}
{{- end -}}
{{- join "," $urls -}}
{{- end -}}

{{/* The Secret with username and password: {root, user, credentialsSecret} */}}
{{- define "fedmq.credentials" -}}
{{- if .credentialsSecret -}}
{{- .credentialsSecret -}}
{{- else if .root.Values.broker.users.create -}}
{{- include "fedmq.object" (dict "root" .root "name" .user) }}-user-credentials
{{- else -}}
{{- fail (printf "%s has no user of the broker: give its credentialsSecret, or have users made with broker.users.create" .user) -}}
{{- end -}}
{{- end -}}

{{- define "fedmq.claim" -}}
{{- default (printf "%s-state" (include "fedmq.name" .)) .Values.aggregator.persistence.existingClaim -}}
{{- end -}}

{{/* A group of workers with what is not given as in workerDefaults, as JSON: {root, group} */}}
{{- define "fedmq.group" -}}
{{- $own := default dict (index .root.Values.workers .group) -}}
{{- $merged := mergeOverwrite (deepCopy .root.Values.workerDefaults) (deepCopy $own) -}}
{{- if not (regexMatch "^[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?$" .group) -}}
{{- fail (printf "workers.%s: the name of a group is 1 to 22 lower-case letters, digits and -" .group) -}}
{{- end -}}
{{- if not $merged.user -}}{{- $_ := set $merged "user" (default .group $merged.identity.name) -}}{{- end -}}
{{- if and $merged.identity.name (gt (int (ternary $merged.autoscaling.max $merged.replicas $merged.autoscaling.enabled)) 1) -}}
{{- fail (printf "workers.%s: an identity is one worker: replicas, or autoscaling.max, of 1" .group) -}}
{{- end -}}
{{- toJson $merged -}}
{{- end -}}

{{/* What KEDA asks Prometheus: how many workers the run wants. Over a minute, so that a failover scales nothing down. */}}
{{- define "fedmq.query" -}}
max(max_over_time(fedmq_workers_wanted{namespace="{{ .Release.Namespace }}",pod=~"{{ include "fedmq.name" . }}-aggregator-.*"}[1m]))
{{- end -}}
