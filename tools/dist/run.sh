#!/usr/bin/env bash
# Runs a release's binary for this machine in a real server, and checks that it reports
# VERSION. `make dist-run` calls this script. LIMIT is a flag of go test.
#
# Usage: run.sh <folder of the release>
set -euo pipefail
cd "$(dirname "$0")/../.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
plugin=vault-plugin-secrets-tokenbroker
tar -C "$scratch" -xzf "$1/${plugin}_${VERSION}_$(go env GOHOSTOS)_$(go env GOHOSTARCH).tar.gz" $plugin
PLUGIN=$scratch/$plugin PLUGIN_VERSION=$VERSION \
	go -C test test "$LIMIT" -tags e2e -count=1 -run '^TestThePluginIsListedWithItsVersion$' ./e2e
