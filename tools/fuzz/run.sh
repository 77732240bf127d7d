#!/usr/bin/env bash
# Fuzz every target that there is, one after the other: run.sh <how long for each>
#
# Up to Go 1.26 a run may end with "context deadline exceeded" and no finding, which is how
# it stops when the machine is busy (https://go.dev/issue/75804): that is no failure.
set -euo pipefail
log="$(mktemp)"
trap 'rm -f "$log"' EXIT

targets="$(go test -list '^Fuzz' ./... | awk '/^Fuzz/ { found[n++] = $1 } /^ok/ { while (n) print $2, found[--n] }')"
failed=()
while read -r package target; do
	echo "$target of $package, $1"
	if ! go test -run '^$' -fuzz "^$target\$" -fuzztime "$1" -fuzzminimizetime 100x "$package" 2>&1 </dev/null | tee "$log"; then
		if grep -q 'Failing input' "$log" || ! grep -q '^    context deadline exceeded$' "$log"; then
			failed+=("$target of $package")
		fi
	fi
done <<<"${targets:?there are no fuzz targets}"
if [ "${#failed[@]}" -gt 0 ]; then
	printf 'failed: %s\n' "${failed[@]}" >&2
	exit 1
fi
