{{- /* The name of everything: the release's, with the chart's where that does not contain it. 58 leaves room for the suffix of pods. */ -}}
{{- define "netpolq.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 58 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 58 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "netpolq.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "netpolq.labels" -}}
{{ include "netpolq.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "netpolq.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- /* HOST:PORT as --metrics-bind-address wants it: an IPv6 host in brackets, none for all addresses. */ -}}
{{- define "netpolq.metricsAddress" -}}
{{- $host := .Values.metrics.bindHost -}}
{{- if contains ":" $host }}[{{ $host }}]{{ else }}{{ $host }}{{ end }}:{{ .Values.metrics.port }}
{{- end -}}

{{- /* Settings of the agent that are not null, as environment variables. Helm reads numbers as floats. */ -}}
{{- define "netpolq.optionalSettings" -}}
{{- $variables := dict
  "nfqueueId" "NETPOLQ_NFQUEUE_ID"
  "fanout" "NETPOLQ_FANOUT"
  "dataplane" "NETPOLQ_DATAPLANE"
  "markMask" "NETPOLQ_MARK_MASK"
  "ctLabel" "NETPOLQ_CT_LABEL"
  "nodeEgress" "NETPOLQ_NODE_EGRESS"
  "netfilterBug1766Fix" "NETPOLQ_NETFILTER_BUG_1766_FIX"
  "strictMode" "NETPOLQ_STRICT_MODE" -}}
{{- range $key, $variable := $variables }}
{{- $value := index $.Values.agent $key }}
{{- if not (kindIs "invalid" $value) }}
- name: {{ $variable }}
  value: {{ if kindIs "float64" $value }}{{ $value | int64 | quote }}{{ else }}{{ $value | quote }}{{ end }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* The kubelet asks the pod's address, which is the node's, unless the metrics are served on another one alone. */ -}}
{{- define "netpolq.probe" -}}
httpGet:
  path: {{ .path }}
  port: {{ .port }}
  {{- if not (has .host (list "" "0.0.0.0" "::")) }}
  host: {{ .host | quote }}
  {{- end }}
{{- end -}}
