#!/usr/bin/env bash
# Prints the section of CHANGELOG.md for VERSION. It fails if there is none, or if it has no
# date.
set -euo pipefail
cd "$(dirname "$0")/../.."

tools/dist/version.sh
if ! grep -qE "^## \[${VERSION#v}\] - [0-9]{4}-[0-9]{2}-[0-9]{2}$" CHANGELOG.md; then
	echo "CHANGELOG.md has no heading '## [${VERSION#v}] - <date>': add it" >&2
	exit 1
fi
awk -v heading="## [${VERSION#v}] - " '
	/^## / || /^\[[^]]+\]: / { inside = index($0, heading) == 1; next }
	inside { print }' CHANGELOG.md
