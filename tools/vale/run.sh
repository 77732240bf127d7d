#!/usr/bin/env bash
# Checks the terms of pages, of help texts (docs/api.md has them) and of comments in Go files
# against the style in tools/vale/styles.
set -euo pipefail

vale=(bin/vale --config tools/vale/vale.ini --output line)

# The style itself works if it finds a fault in each line of its example.
found=$("${vale[@]}" tools/vale/testdata/faults.md | wc -l) || true
wanted=$(grep -c . tools/vale/testdata/faults.md)
if [ "$found" -lt "$wanted" ]; then
	echo "$0: the style finds $found of $wanted faults in tools/vale/testdata/faults.md" >&2
	exit 1
fi

"${vale[@]}" ./*.md ./*.go docs cmd internal provider test bench examples tools/*/*.go
