#!/usr/bin/env bash
# Builds the Vault server of the tests and the demo from the module in this folder, and prints
# progress.
#
# Usage: build.sh <path of the binary>
set -euo pipefail

case "$1" in
/*) target=$1 ;;
*) target=$PWD/$1 ;;
esac
mkdir -p "$(dirname "$target")"
cd "$(dirname "$0")"
export GOFLAGS="${GOFLAGS:-} -tags=minimal"
module=github.com/hashicorp/vault
version=$(go list -m -f '{{.Version}}' "$module")

echo "Building Vault $version from source, for the tests and the demo. On two cores this takes"
echo "5 to 10 minutes with empty caches (2.8 GB of modules, 1.8 GB of build cache), and a"
echo "minute with warm ones."
started=$SECONDS
# go prints each module that it downloads and, with -v, each package that it compiles.
go build -v -ldflags '-s -w' -o "$target.part" "$module" 2>&1 | awk '
	/^go: downloading/ { if (++modules % 50 == 0) print "  … " modules " modules downloaded"; fflush(); next }
	/^[a-zA-Z0-9_.\/-]+$/ { if (++packages % 200 == 0) print "  … " packages " packages compiled"; fflush(); next }
	{ print }'
mv "$target.part" "$target"
echo "Built $1 in $((SECONDS - started)) s."
