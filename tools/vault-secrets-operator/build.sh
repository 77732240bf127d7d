#!/bin/sh
# Usage: build.sh FILE
#
# Builds the Vault Secrets Operator with a fix of its release 1.4.0 (pull request 1255), since that release does not
# build as a module. Without it, a read of static credentials that returns the same token keeps the ttl of the read
# before, so the next read comes after the token's end.
set -eu

module=github.com/hashicorp/vault-secrets-operator
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# A signal does not run the trap of EXIT in every shell.
trap 'exit 130' INT
trap 'exit 143' TERM

go mod download "$module"
cp -R "$(go list -m -f '{{.Dir}}' "$module")" "$work/operator"
chmod -R u+w "$work"
file=$work/operator/controllers/vaultdynamicsecret_controller.go
cp "$file" "$work/before.go"
sed -i '/^\t\to\.Status\.SecretMAC = /i \\t\to.Status.StaticCredsMetaData = *staticCredsMeta' "$file"
[ "$(diff "$work/before.go" "$file" | grep -c '^>')" = 1 ] || {
	echo 'build.sh: the fix does not fit this release' >&2
	exit 1
}
cp go.mod go.sum "$work"
go mod edit -replace "$module=$work/operator" "$work/go.mod"
go build -modfile "$work/go.mod" -ldflags '-s -w' -o "$1" "$module"
