#!/usr/bin/env bash
# Prints what CHANGELOG.md says of VERSION. A version of which it says nothing, or that it
# has no date for, is not to be released.
set -euo pipefail
cd "$(dirname "$0")/../.."

tools/dist/version.sh
if ! grep -qE "^## \[${VERSION#v}\] - [0-9]{4}-[0-9]{2}-[0-9]{2}$" CHANGELOG.md; then
	echo "CHANGELOG.md has no '## [${VERSION#v}] - <date>'." >&2
	exit 1
fi
awk -v heading="## [${VERSION#v}] - " '
	/^## / || /^\[[^]]+\]: / { inside = index($0, heading) == 1; next }
	inside { print }' CHANGELOG.md
