#!/usr/bin/env bash
# Runs a release's binary for this machine in a real server, and checks that it reports VERSION. On
# Linux, it also installs the release's Debian package below another root, as the page about
# operations shows. `make dist-run` calls this script. LIMIT is a flag of go test.
#
# Usage: run.sh <folder of the release>
set -euo pipefail
cd "$(dirname "$0")/../.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
plugin=vault-plugin-secrets-tokenbroker
tar -C "$scratch" -xzf "$1/${plugin}_${VERSION}_$(go env GOHOSTOS)_$(go env GOHOSTARCH).tar.gz" $plugin
tests=TestThePluginIsListedWithItsVersion
if [ "$(go env GOHOSTOS)" = linux ]; then tests+='|TestTheDebianPackageServesAToken'; fi
RELEASE=$(cd "$1" && pwd) PLUGIN=$scratch/$plugin PLUGIN_VERSION=$VERSION \
	go -C test test "$LIMIT" -tags e2e,dist -count=1 -run "^($tests)\$" ./e2e
