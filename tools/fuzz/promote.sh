#!/usr/bin/env bash
# Commit to testdata/fuzz what fuzzing has found of use: promote.sh <package> <target>
#
# Of the inputs in Go's cache and in testdata/fuzz, the smallest stay that run code, or
# run it about so often (by powers of two), as neither the target's seeds nor smaller
# inputs do. They are tests from then on.
set -euo pipefail
package=$1 target=$2
most=40      # inputs
longest=2048 # bytes each

# What reads the input, in the end.
code=(vault-plugin-secrets-tokenbroker/... encoding/json encoding/pem encoding/asn1 crypto/x509 net/url strconv time golang.org/x/oauth2/...
	github.com/golang-jwt/jwt/v5 github.com/hashicorp/vault/sdk/framework github.com/hashicorp/go-secure-stdlib/parseutil)

cd "$(go list -f '{{.Dir}}' "$package")"
path="$(go list .)"
corpus="testdata/fuzz/$target"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

mkdir -p "$corpus"
find "$(go env GOCACHE)/fuzz/$path/$target" -type f -size -"$longest"c -exec cp -n {} "$corpus" \; 2>/dev/null || true
go test -c -o "$work/test" -covermode=count -coverpkg="$(IFS=,; echo "${code[*]}")" .

# covers prints the code that a run of some inputs reaches, and how often.
covers() {
	"$work/test" -test.run "^$target\$/$1" -test.coverprofile "$work/profile" >/dev/null || { echo "$corpus: $1 fails" >&2; exit 1; }
	awk '/_test\.go:|providertest|vendorsim/ || $NF == 0 || /^mode/ { next } { n = 0; for (c = $NF; c > 1; c /= 2) n++; print $1, n }' "$work/profile"
}

covers '^seed#' | sort -u >"$work/known"
kept=0
while read -r input; do
	covers "^$input\$" | sort -u >"$work/reached"
	if ((kept < most)) && [[ -n "$(comm -13 "$work/known" "$work/reached")" ]]; then
		sort -u -o "$work/known" "$work/known" "$work/reached"
		((++kept))
	else
		rm "$corpus/$input"
	fi
done < <(find "$corpus" -type f -printf '%s %f\n' | sort -n | cut -d' ' -f2)
echo "$corpus: $kept"
