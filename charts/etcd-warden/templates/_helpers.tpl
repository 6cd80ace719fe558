{{- define "etcd-warden.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{/* The name of the release if it contains the chart's name, so that the objects of a release etcd-warden are called etcd-warden.
It is truncated so that the longest suffix still fits into 63 characters. */}}
{{- define "etcd-warden.fullname" -}}
{{- $name := include "etcd-warden.name" . }}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) }}
{{- .Values.fullnameOverride | default $full | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "etcd-warden.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "etcd-warden.fullname" .) "default") }}
{{- end }}

{{- define "etcd-warden.image" -}}
{{- $image := printf "%s:%s" .Values.image.repository (.Values.image.tag | default (printf "v%s" .Chart.AppVersion)) }}
{{- with .Values.image.digest }}{{ printf "%s@%s" $image . }}{{ else }}{{ $image }}{{ end }}
{{- end }}

{{- define "etcd-warden.selectorLabels" -}}
app.kubernetes.io/name: {{ include "etcd-warden.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "etcd-warden.labels" -}}
{{ include "etcd-warden.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
{{- end }}

{{/* The operator's permissions in the namespaces that it watches. It deletes the StatefulSet and the claim of a removed member, and
a disruption budget that is no longer needed. Everything else is deleted by owner references and the garbage collector. */}}
{{- define "etcd-warden.rules" -}}
# Patch: annotations that request a change, such as the replacement of a member, are removed when they are completed.
- apiGroups: [etcd-warden.dev]
  resources: [etcdclusters]
  verbs: [get, list, watch, patch]
- apiGroups: [etcd-warden.dev]
  resources: [etcdusers]
  verbs: [get, list, watch]
- apiGroups: [etcd-warden.dev]
  resources: [etcdclusters/status, etcdusers/status]
  verbs: [patch]
# The admission plugin OwnerReferencesPermissionEnforcement, if it is enabled, requires this for owner references that
# block the owner's deletion.
- apiGroups: [etcd-warden.dev]
  resources: [etcdclusters/finalizers, etcdusers/finalizers]
  verbs: [update]
# No patch: Secrets are created, and replaced only with the resourceVersion that was read.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, update]
- apiGroups: [""]
  resources: [configmaps, services]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, create, patch, delete]
# Patching a pod's annotation makes the kubelet refresh its mounted certificates at once.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch, delete]
# Pods are restarted by eviction, which respects disruption budgets. A pod is deleted only if all CAs that it trusts have
# expired: its member is then not part of a quorum that a budget could protect.
- apiGroups: [""]
  resources: [pods/eviction]
  verbs: [create]
# The resources of running pods are changed where Kubernetes does it. Without this rule, members are restarted for them.
- apiGroups: [""]
  resources: [pods/resize]
  verbs: [patch]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
# The events of StatefulSets say why Kubernetes refuses a pod: a quota, an admission policy, security context constraints.
- apiGroups: [""]
  resources: [events]
  verbs: [list]
# For clusters with an issuer of cert-manager.
- apiGroups: [cert-manager.io]
  resources: [certificaterequests]
  verbs: [get, create, delete]
{{- end }}

{{/* The cluster-wide read permissions of the operator, to see whether the node of a member's volume is lost. Without them, such a
member is replaced only on request. */}}
{{- define "etcd-warden.evidenceRules" -}}
- apiGroups: [""]
  resources: [persistentvolumes]
  verbs: [get]
- apiGroups: [""]
  resources: [nodes]
  verbs: [list]
{{- end }}
