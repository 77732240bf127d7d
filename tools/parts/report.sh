#!/usr/bin/env bash
# Prints how long each part of `make test` took, the longest first.
#
# Usage: report.sh <file written by timed.sh>
set -euo pipefail

[ -e "$1" ] || exit 0
echo
echo 'seconds  part (parts run in parallel)'
sort -rn "$1" | awk -F '\t' '{ printf "%7d  %s%s\n", $1, $2, $3 == 0 ? "" : "  FAILED" }'
