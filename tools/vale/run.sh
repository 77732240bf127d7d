#!/usr/bin/env bash
# Checks the terms in the tracked and the new files of the repository against the style in
# tools/vale/styles. Leaves out what is not prose of this repository, and the styles themselves.
set -euo pipefail

vale=(bin/vale --config tools/vale/vale.ini --output line)

# The style finds the faults in its examples, and nothing else.
faults=tools/vale/testdata
found=$("${vale[@]}" $faults/faults.{go,md,sh} |
	sed -E "s/^([^:]+:[0-9]+):.* instead of '([^']+)'.*/\1: \2/" | sort -V) || true
if ! diff $faults/faults.txt - <<<"$found" >&2; then
	echo "$0: the style does not find the faults that $faults/faults.txt lists (see above)" >&2
	exit 1
fi

git ls-files -z --cached --others --exclude-standard -- . \
	':!tools/vale/styles' ':!*/testdata/*' ':!*.sum' ':!*.mod' ':!*.svg' ':!*.png' ':!*/package-lock.json' \
	':!LICENSE' ':!bench/baseline.txt' |
	xargs -0 "${vale[@]}"
