#!/usr/bin/env bash
# Runs a command and, if TIMES is set, appends how long it took to the file TIMES.
#
# Usage: timed.sh <part> <command> [argument ...]
#
# Progress goes to descriptor 9, which all.sh connects to the terminal or the log, because make
# holds back the output of a part until the part ends.
set -euo pipefail

part=$1
shift
if [ -z "${TIMES:-}" ]; then
	exec "$@"
fi
{ echo "$(date +%T)  $part: started" >&9; } 2>/dev/null || true
began=$(date +%s)
status=0
"$@" || status=$?
ended=$(date +%s)
printf '%d\t%s\t%d\n' $((ended - began)) "$part" "$status" >>"$TIMES"
{ echo "$(date +%T)  $part: ended after $((ended - began)) s, exit status $status" >&9; } 2>/dev/null || true
exit "$status"
