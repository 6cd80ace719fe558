#!/bin/bash
# Two field managers that apply the very same manifest conflict in server-side apply, if it holds a quantity that is not in canonical form.
# The first one's 1.5Gi is stored as 1536Mi, and the second one's 1.5Gi is compared with that as a text. With 1536Mi both own the field.
set -euo pipefail
kubernetes_version=v0.37.2

tmp=$(mktemp -d)
finish() {
	rm -rf "$tmp"
}
trap finish EXIT
cd "$tmp"

cat >main.go <<'GO'
package main

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
)

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func manifest(size string) *unstructured.Unstructured {
	text := fmt.Sprintf(`{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
		"spec": {"resources": {"requests": {"storage": %q}}}}`, size)
	object := map[string]any{}
	if err := json.Unmarshal([]byte(text), &object); err != nil {
		panic(err)
	}
	return &unstructured.Unstructured{Object: object}
}

func main() {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		panic(err)
	}
	kind := corev1.SchemeGroupVersion.WithKind("PersistentVolumeClaim")
	// The library with which the API server merges what is applied.
	fields := must(managedfields.NewDefaultFieldManager(managedfields.NewDeducedTypeConverter(), scheme, scheme, scheme,
		kind, kind.GroupVersion(), "", nil))
	for _, size := range []string{"1536Mi", "1.5Gi"} {
		live := runtime.Object(&corev1.PersistentVolumeClaim{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"}, ObjectMeta: metav1.ObjectMeta{Name: "data"},
		})
		for _, manager := range []string{"helm", "argocd", "helm"} {
			next, err := fields.Apply(live, manifest(size), manager, false)
			if err != nil {
				fmt.Printf("%s applied by %s: %v\n", size, manager, err)
				continue
			}
			live = next
			stored := live.(*corev1.PersistentVolumeClaim).Spec.Resources.Requests[corev1.ResourceStorage]
			fmt.Printf("%s applied by %s: stored as %s\n", size, manager, stored.String())
		}
	}
}
GO
cat >wanted <<'TEXT'
1536Mi applied by helm: stored as 1536Mi
1536Mi applied by argocd: stored as 1536Mi
1536Mi applied by helm: stored as 1536Mi
1.5Gi applied by helm: stored as 1536Mi
1.5Gi applied by argocd: Apply failed with 1 conflict: conflict with "helm": .spec.resources.requests.storage
1.5Gi applied by helm: stored as 1536Mi
TEXT
(
	go mod init finding
	go get "k8s.io/api@$kubernetes_version" "k8s.io/apimachinery@$kubernetes_version"
	go mod tidy
	go build -o finding .
) >build.log 2>&1 &
wait $! || { cat build.log; exit 1; }
echo "k8s.io/apimachinery $kubernetes_version, $(go env GOVERSION)"
./finding | tee got
if cmp --silent got wanted; then
	echo "as stated"
else
	echo "the behaviour has changed; it was:"
	cat wanted
	false
fi
