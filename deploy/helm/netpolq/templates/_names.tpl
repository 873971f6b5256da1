{{- /* The name of all objects: the release's, with the chart's where that does not contain it. 58 leaves room for the suffix of pods. */ -}}
{{- define "netpolq.name" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 58 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 58 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 58 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "netpolq.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "netpolq.name" .) -}}
{{- end -}}

{{- /*
The selector of a DaemonSet can never change. One of the name that kustomize gives has kustomize's selector, so that the chart can take it
over. The label app.kubernetes.io/name does not follow nameOverride, because scrape jobs look for it.
*/ -}}
{{- define "netpolq.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
{{- if ne (include "netpolq.name" .) .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- end -}}

{{- define "netpolq.podLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "netpolq.cleanupSelector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-cleanup
{{- if ne (include "netpolq.name" .) .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- end -}}

{{- /* Names and labels of the page. The labels of its pods are not those of the agents, which the DaemonSet selects. */ -}}
{{- define "netpolq.uiName" -}}
{{ include "netpolq.name" . | trunc 50 | trimSuffix "-" }}-ui
{{- end -}}

{{- define "netpolq.uiPodLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-ui
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "netpolq.uiSelector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-ui
{{- if ne (include "netpolq.name" .) .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- end -}}

{{- define "netpolq.uiLabels" -}}
{{ include "netpolq.uiPodLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- /* The selector of the agents' pods, as a label selector of the API. */ -}}
{{- define "netpolq.agentSelector" -}}
app.kubernetes.io/name={{ .Chart.Name }}
{{- if ne (include "netpolq.name" .) .Chart.Name }},app.kubernetes.io/instance={{ .Release.Name }}{{ end }}
{{- end -}}

{{- define "netpolq.labels" -}}
{{ include "netpolq.podLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "netpolq.image" -}}
{{- with .Values.image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- .Values.image.repository -}}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end -}}
{{- end -}}

{{- /* HOST:PORT as --metrics-bind-address wants it: an IPv6 host in brackets, none for all addresses. */ -}}
{{- define "netpolq.metricsAddress" -}}
{{- $host := .Values.metrics.bindHost -}}
{{- if contains ":" $host }}[{{ $host }}]{{ else }}{{ $host }}{{ end }}:{{ .Values.metrics.port }}
{{- end -}}

{{- /* A value as a quoted text. Helm reads numbers as floats. */ -}}
{{- define "netpolq.scalar" -}}
{{ if kindIs "float64" . }}{{ . | int64 | quote }}{{ else }}{{ . | quote }}{{ end }}
{{- end -}}

{{- /* Settings of the agent that are not null, as environment variables. */ -}}
{{- define "netpolq.optionalSettings" -}}
{{- $variables := dict
  "nfqueueId" "NETPOLQ_NFQUEUE_ID"
  "fanout" "NETPOLQ_FANOUT"
  "dataplane" "NETPOLQ_DATAPLANE"
  "markMask" "NETPOLQ_MARK_MASK"
  "ctLabel" "NETPOLQ_CT_LABEL"
  "verdictCache" "NETPOLQ_VERDICT_CACHE"
  "verdictCacheTtl" "NETPOLQ_VERDICT_CACHE_TTL"
  "verdictCacheSize" "NETPOLQ_VERDICT_CACHE_SIZE"
  "nodeEgress" "NETPOLQ_NODE_EGRESS"
  "denyWith" "NETPOLQ_DENY_WITH"
  "netfilterBug1766Fix" "NETPOLQ_NETFILTER_BUG_1766_FIX"
  "policyStatus" "NETPOLQ_POLICY_STATUS"
  "events" "NETPOLQ_EVENTS"
  "flows" "NETPOLQ_FLOWS"
  "flowRecords" "NETPOLQ_FLOW_RECORDS"
  "flowBytes" "NETPOLQ_FLOW_BYTES"
  "policyMetrics" "NETPOLQ_POLICY_METRICS"
  "audit" "NETPOLQ_AUDIT"
  "strictMode" "NETPOLQ_STRICT_MODE" -}}
{{- range $key, $variable := $variables }}
{{- $value := index $.Values.agent $key }}
{{- if not (kindIs "invalid" $value) }}
{{- if and (has $key (list "verdictCache" "flows" "policyMetrics")) (kindIs "bool" $value) }}
{{- /* YAML reads a plain on or off as a boolean. */}}
{{- $value = ternary "on" "off" $value }}
{{- end }}
- name: {{ $variable }}
  value: {{ include "netpolq.scalar" $value }}
{{- end }}
{{- end }}
{{- with .Values.agent.podCidrs }}
- name: NETPOLQ_POD_CIDRS
  value: {{ join "," . | quote }}
{{- end }}
{{- with .Values.flowExport.otlp }}
- name: NETPOLQ_FLOW_EXPORT_OTLP
  value: {{ . | quote }}
{{- if $.Values.flowExport.otlpHeadersSecret }}
- name: NETPOLQ_FLOW_EXPORT_OTLP_HEADERS_FILE
  value: /etc/netpolq/flow-export/headers
{{- end }}
{{- end }}
{{- if .Values.ui.enabled }}
- name: NETPOLQ_REPORT_BIND_ADDRESS
  value: ":{{ .Values.ui.reportPort }}"
- name: NETPOLQ_REPORT_TLS_CERTIFICATE
  value: /etc/netpolq/report-tls/tls.crt
- name: NETPOLQ_REPORT_TLS_KEY
  value: /etc/netpolq/report-tls/tls.key
- name: NETPOLQ_REPORT_TLS_CLIENT_CA
  value: /etc/netpolq/report-tls/ca.crt
{{- end }}
{{- if .Values.flowExport.dir }}
- name: NETPOLQ_FLOW_EXPORT_FILE
  value: /var/log/netpolq/flows.json
{{- range $key, $variable := dict "fileMaxBytes" "NETPOLQ_FLOW_EXPORT_FILE_MAX_BYTES" "fileKeep" "NETPOLQ_FLOW_EXPORT_FILE_KEEP" }}
{{- $value := index $.Values.flowExport $key }}
{{- if not (kindIs "invalid" $value) }}
- name: {{ $variable }}
  value: {{ include "netpolq.scalar" $value }}
{{- end }}
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
