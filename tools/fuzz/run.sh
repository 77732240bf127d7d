#!/usr/bin/env bash
# Runs every fuzz target, one after the other.
#
# Usage: run.sh <time per target>
#
# The test binary of a package is built once, with fuzzing instrumentation, for all its targets.
#
# Up to Go 1.26, a run on a busy machine may fail with "context deadline exceeded" although no
# input failed (https://go.dev/issue/75804). The script ignores this.
set -euo pipefail
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
log=$scratch/log
cache="$(go env GOCACHE)/fuzz"

count=0
failed=()
while read -r package folder; do
	targets="$(cat "$folder"/*_test.go | sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p')"
	[ -n "$targets" ] || continue
	binary=$scratch/${package//\//_}.test
	go -C "$folder" test -c -vet=off -fuzz=. -o "$binary" .
	for target in $targets; do
		count=$((count + 1))
		echo "$target of $package, $1"
		if ! (cd "$folder" && "$binary" -test.run '^$' -test.fuzz "^$target\$" -test.fuzztime "$1" \
			-test.fuzzminimizetime 100x -test.fuzzcachedir "$cache/$package" 2>&1 </dev/null) | tee "$log"; then
			if grep -q 'Failing input' "$log" || ! grep -q '^    context deadline exceeded$' "$log"; then
				failed+=("$target of $package")
			fi
		fi
	done
done < <(for module in . test; do
	go -C "$module" list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}} {{.Dir}}{{end}}' ./...
done)
if [ "$count" = 0 ]; then
	echo 'no fuzz targets found' >&2
	exit 1
fi
if [ "${#failed[@]}" -gt 0 ]; then
	printf 'failed: %s\n' "${failed[@]}" >&2
	exit 1
fi
