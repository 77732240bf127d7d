#!/usr/bin/env bash
# Runs a command, and adds how long it took to the file that TIMES names, if it is set:
# timed.sh <part> <command> [argument ...]
#
# all.sh opens descriptor 9 to the terminal or the log, where make's own output waits
# for a part to end.
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
