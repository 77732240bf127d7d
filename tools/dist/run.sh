#!/usr/bin/env bash
# Runs this machine's binary of a release, out of its archive in the folder given, in a
# real server: the version it reports of itself is VERSION. `make dist-run` calls it, and
# sets LIMIT, a flag of go test.
set -euo pipefail
cd "$(dirname "$0")/../.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
plugin=vault-plugin-secrets-tokenbroker
tar -C "$scratch" -xzf "$1/${plugin}_${VERSION}_$(go env GOHOSTOS)_$(go env GOHOSTARCH).tar.gz" $plugin
PLUGIN=$scratch/$plugin PLUGIN_VERSION=$VERSION \
	go test "$LIMIT" -tags e2e -count=1 -run '^TestThePluginIsListedWithItsVersion$' ./test/e2e
