{{- define "etcd-warden.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{/* The release's name where it holds the chart's, so that a release called etcd-warden makes objects called etcd-warden.
Cut so that the longest suffix still fits into 63 characters. */}}
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

{{/* What the operator may do in the namespaces that it serves. It deletes what a removed member leaves, its StatefulSet and its
claim, and a disruption budget that has no use any more; for the rest owner references and Kubernetes' garbage collection do. */}}
{{- define "etcd-warden.rules" -}}
# Patch: wishes that are annotations, to replace a member or to recover from one, are taken off when they are fulfilled.
- apiGroups: [etcd-warden.dev]
  resources: [etcdclusters]
  verbs: [get, list, watch, patch]
- apiGroups: [etcd-warden.dev]
  resources: [etcdusers]
  verbs: [get, list, watch]
- apiGroups: [etcd-warden.dev]
  resources: [etcdclusters/status, etcdusers/status]
  verbs: [patch]
# Where the admission plugin OwnerReferencesPermissionEnforcement is on, owner references that block the owner's deletion
# need it.
- apiGroups: [etcd-warden.dev]
  resources: [etcdclusters/finalizers, etcdusers/finalizers]
  verbs: [update]
# No patch: keys are created once and later replaced only as they were read.
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
# Pods are restarted by eviction, so that the disruption budget is asked; they are deleted only where all authorities have expired that
# they know, for whoever believes nobody is no part of a quorum that the budget could keep.
- apiGroups: [""]
  resources: [pods/eviction]
  verbs: [create]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
# For clusters whose issuer is cert-manager's.
- apiGroups: [cert-manager.io]
  resources: [certificaterequests]
  verbs: [get, create, delete]
{{- end }}

{{/* What the operator may read of the whole cluster: whether the node is gone that a member's volume is bound to. Without it,
such a member is replaced only when its user asks. */}}
{{- define "etcd-warden.evidenceRules" -}}
- apiGroups: [""]
  resources: [persistentvolumes]
  verbs: [get]
- apiGroups: [""]
  resources: [nodes]
  verbs: [list]
{{- end }}
