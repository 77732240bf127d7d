#!/usr/bin/env bash
# Copies the most useful inputs that fuzzing has found to testdata/fuzz, where they are tests.
#
# Usage: promote.sh <folder of a package> <target>
#
# The candidates are the inputs in Go's cache and in testdata/fuzz. The script keeps those that
# add the most coverage to that of the target's seeds and of the inputs kept so far, and
# removes the others from testdata/fuzz. Coverage counts a statement once for each power of
# two of its executions.
set -euo pipefail
folder=$1 target=$2
most=40      # inputs
longest=2048 # bytes each

# The packages that read the input, whose coverage counts.
code=(vault-plugin-secrets-tokenbroker/... encoding/json encoding/pem encoding/asn1 crypto/x509 net/url strconv time
	github.com/golang-jwt/jwt/v5 github.com/hashicorp/vault/sdk/framework github.com/hashicorp/go-secure-stdlib/parseutil)

cd "$folder"
path="$(go list .)"
corpus="testdata/fuzz/$target"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

mkdir -p "$corpus"
find "$(go env GOCACHE)/fuzz/$path/$target" -type f -size -"$longest"c -exec cp -n {} "$corpus" \; 2>/dev/null || true
go test -c -o "$work/test" -covermode=count -coverpkg="$(IFS=,; echo "${code[*]}")" .

# covers prints the blocks of code that the given inputs run, each with the power of two of
# its executions.
covers() {
	"$work/test" -test.run "^$target\$/$1" -test.coverprofile "$work/profile" >/dev/null || { echo "$corpus: $1 fails" >&2; exit 1; }
	awk '/_test\.go:|providertest|vendorsim/ || $NF == 0 || /^mode/ { next } { n = 0; for (c = $NF; c > 1; c /= 2) n++; print $1 "*" n }' "$work/profile" | sort -u
}

covers '^seed#' >"$work/known"
while read -r input; do
	covers "^$input\$" | comm -13 "$work/known" - | sed "s/^/$input /"
done < <(find "$corpus" -type f -printf '%s %f\n' | sort -n | cut -d' ' -f2) >"$work/gains"

# Repeatedly pick the input that adds the most coverage, the smallest one of several.
awk -v most="$most" '
	!($1 in gains) { order[n++] = $1 }
	{ gains[$1] = gains[$1] " " $2 }
	END {
		for (kept = 0; kept < most; kept++) {
			max = 0
			for (i = 0; i < n; i++) {
				new = 0
				for (j = split(gains[order[i]], codes, " "); j > 0; j--) new += !(codes[j] in reached)
				if (new > max) { max = new; best = order[i] }
			}
			if (!max) break
			for (j = split(gains[best], codes, " "); j > 0; j--) reached[codes[j]]
			print best
		}
	}' "$work/gains" | sort >"$work/kept"
find "$corpus" -type f -printf '%f\n' | sort | comm -13 "$work/kept" - | while read -r input; do rm "$corpus/$input"; done
echo "$corpus: $(wc -l <"$work/kept")"
