{{/* The patterns that `fl-keys permissions` prints (broker/rabbitmq/permissions.py says why they are these); a test
     holds both to one another. */}}

{{- define "fedmq.escaped" -}}
{{- . | replace "." "\\." | replace "-" "\\-" -}}
{{- end -}}

{{/* Of one that publishes by `keys`, fills `blobs` of its own, and may `read`: {queue, keys, blobs, read, configure} */}}
{{- define "fedmq.sender" -}}
{{- $queue := include "fedmq.escaped" .queue -}}
{{- $result := dict
  "configure" (printf "^%s\\.%s$" $queue (default .blobs .configure))
  "write" (printf "^%s\\.(in|%s)$" $queue .blobs)
  "read" (printf "^%s\\.(%s)$" $queue .read)
  "topicWrite" (printf "^(%s|%s)$" .keys .blobs)
  "topicRead" (printf "^%s$" .blobs)
-}}
{{- toJson $result -}}
{{- end -}}

{{/* {queue, role, name, elastic} */}}
{{- define "fedmq.permissions" -}}
{{- $queue := include "fedmq.escaped" .queue -}}
{{- $own := include "fedmq.escaped" .name -}}
{{- if eq .role "worker" -}}
{{- if .elastic -}}{{- $own = printf "%s(-[A-Za-z0-9_-]+)?" $own -}}{{- end -}}
{{- include "fedmq.sender" (dict "queue" .queue
  "blobs" (printf "blob\\.update\\.%s\\..*" $own)
  "read" "in|models|blob\\.model\\..*"
  "keys" (printf "(update(\\.[0-9]+)?|presence)\\.%s" $own)) -}}
{{- else if eq .role "partial" -}}
{{- $blobs := "blob\\.partial\\.[0-9]+\\..*" -}}
{{- include "fedmq.sender" (dict "queue" .queue
  "blobs" $blobs
  "read" "in|models|shard\\.[0-9]+|blob\\.(model|update)\\..*"
  "keys" "update\\.[^.]*|partial\\.[0-9]+"
  "configure" (printf "(shard\\.[0-9]+\\.leader|blob\\.update\\..*|%s)" $blobs)) -}}
{{- else if eq .role "keeper" -}}
{{- $blobs := printf "blob\\.release\\.%s\\..*" $own -}}
{{- include "fedmq.sender" (dict "queue" .queue
  "blobs" $blobs
  "read" (printf "in|keeper\\.%s" $own)
  "keys" (printf "release\\.%s" $own)
  "configure" (printf "(keeper\\.%s\\.leader|%s)" $own $blobs)) -}}
{{- else if eq .role "aggregator" -}}
{{- $all := printf "%s(\\..*)?" $queue -}}
{{- toJson (dict "configure" (printf "^%s$" $all) "write" (printf "^(amq\\.default|%s)$" $all) "read" (printf "^%s$" $all) "topicWrite" ".*" "topicRead" ".*") -}}
{{- else if eq .role "operator" -}}
{{- toJson (dict "configure" "^$" "write" (printf "^%s\\.in$" $queue) "read" (printf "^%s\\.statuses$" $queue) "topicWrite" "^command\\.run$" "topicRead" "^$") -}}
{{- else if eq .role "onlooker" -}}
{{- toJson (dict "configure" "^$" "write" "^$" "read" (printf "^%s\\.statuses$" $queue) "topicWrite" "^$" "topicRead" "^$") -}}
{{- else -}}
{{- fail (printf "there is no role %s" .role) -}}
{{- end -}}
{{- end -}}

{{/* All users of the broker, as JSON: {users: [{name, role, elastic}]} */}}
{{- define "fedmq.users" -}}
{{- $users := list -}}
{{- if .Values.aggregator.enabled -}}
{{- $users = append $users (dict "name" "aggregator" "role" "aggregator" "elastic" false) -}}
{{- $users = append $users (dict "name" "operator" "role" "operator" "elastic" false) -}}
{{- if .Values.partials.shards -}}
{{- $users = append $users (dict "name" "partial" "role" "partial" "elastic" false) -}}
{{- end -}}
{{- end -}}
{{- if .Values.page.enabled -}}
{{- $users = append $users (dict "name" "onlooker" "role" "onlooker" "elastic" false) -}}
{{- end -}}
{{- if .Values.keeper.enabled -}}
{{- $users = append $users (dict "name" .Values.keeper.identity.name "role" "keeper" "elastic" false) -}}
{{- end -}}
{{- range $group, $_ := .Values.workers -}}
{{- $values := include "fedmq.group" (dict "root" $ "group" $group) | fromJson -}}
{{- if not $values.credentialsSecret -}}
{{- $users = append $users (dict "name" $values.user "role" "worker" "elastic" (not $values.identity.name)) -}}
{{- end -}}
{{- end -}}
{{- range .Values.broker.users.sites -}}
{{- $users = append $users (dict "name" .name "role" (default "worker" .role) "elastic" (default false .elastic)) -}}
{{- end -}}
{{- $seen := dict -}}
{{- range $users -}}
{{- if hasKey $seen .name -}}{{- fail (printf "two users of the broker are called %s: give one of them another name" .name) -}}{{- end -}}
{{- $_ := set $seen .name true -}}
{{- if not (regexMatch "^[A-Za-z0-9_][A-Za-z0-9_-]{0,63}$" .name) -}}
{{- fail (printf "%s cannot be the name of a user: 1 to 64 letters, digits, _ and -, and no - at the beginning" .name) -}}
{{- end -}}
{{- end -}}
{{- range $one := $users -}}
{{- range $other := $users -}}
{{- if and (eq $one.role "worker") (eq $other.role "worker") $one.elastic (hasPrefix (printf "%s-" $one.name) $other.name) -}}
{{- fail (printf "the user %s could speak for %s, a name for one of its own workers: give one of the two another name" $one.name $other.name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson (dict "users" $users) -}}
{{- end -}}
