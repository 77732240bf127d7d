#!/usr/bin/env bash
# Builds a release for PLATFORMS twice, the second time in another folder and environment, and
# tests both. The version is not the default one.
set -euo pipefail
cd "$(dirname "$0")/../.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
plugin=vault-plugin-secrets-tokenbroker
export PLATFORMS VERSION=v9.8.7-rc.1 FIRST=$scratch/first SECOND=$scratch/elsewhere/dist
# Outside a clone, the time of a file replaces that of the commit.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y go.mod)}
export SOURCE_DATE_EPOCH

make --no-print-directory dist DIST="$FIRST"
mkdir "$scratch/elsewhere"
{
	git ls-files -z --cached --others --exclude-standard 2>/dev/null ||
		find . \( -path ./bin -o -path ./dist -o -name node_modules \) -prune -o -type f -print0
} | tar --null -T - -c | tar -C "$scratch/elsewhere" -x
(
	umask 077
	export TZ=Asia/Kolkata LC_ALL=C.UTF-8 GOFLAGS=-buildvcs=auto GOAMD64=v3 GOENV=$scratch/env DIST=$scratch/none
	printf '%s\n' GOFLAGS=-race GOEXPERIMENT=jsonv2 GOFIPS140=latest GOARM64=v9.0 >"$GOENV"
	make --no-print-directory -C "$scratch/elsewhere" dist
	# With Go's cache of the first build, a difference in the second could go unnoticed.
	platform=${PLATFORMS%% *}
	export GOCACHE=$scratch/cache GOFIPS140=latest GOOS=${platform%/*} GOARCH=${platform#*/}
	make --no-print-directory -C "$scratch/elsewhere" build
	cmp "$scratch/elsewhere/bin/$plugin" "$SECOND/bin/${GOOS}_$GOARCH/$plugin"
)
# LIMIT is a flag of go test.
go -C test/dist test "$LIMIT" -count=1 ./...

make --no-print-directory dist-run DIST="$FIRST"
