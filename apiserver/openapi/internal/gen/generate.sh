#!/bin/sh
# Makes ../../schema.gz from the comments of the API types, with upstream's generator. The Go code in between is thrown away.
set -eu
cd "$(dirname "$0")"
trap 'rm -rf defs header.txt' EXIT
: > header.txt
types=
for v in admissionregistration/v1 apidiscovery/v2 apps/v1 authentication/v1 authorization/v1 autoscaling/v1 autoscaling/v2 batch/v1 \
	certificates/v1 coordination/v1 core/v1 discovery/v1 events/v1 flowcontrol/v1 networking/v1 node/v1 policy/v1 rbac/v1 \
	resource/v1 scheduling/v1 scheduling/v1alpha3 storage/v1 storagemigration/v1; do
	types="$types k8s.io/api/$v"
done
go tool openapi-gen --go-header-file header.txt --output-dir defs --output-pkg "$(go list -m)/defs" --output-file defs.go --report-filename /dev/null \
	$types k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1 k8s.io/metrics/pkg/apis/metrics/v1beta1 k8s.io/apimachinery/pkg/apis/meta/v1 \
	k8s.io/apimachinery/pkg/runtime k8s.io/apimachinery/pkg/version k8s.io/apimachinery/pkg/util/intstr k8s.io/apimachinery/pkg/api/resource
go run ./dump ../../schema.gz
