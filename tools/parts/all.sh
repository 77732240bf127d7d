#!/usr/bin/env bash
# Runs what `make test` consists of, JOBS targets of MAKE at once: TOOLS, which the
# end-to-end tests need, and then those tests beside PARTS. Without the tools, what needs
# them does not run: the end-to-end tests, and NEEDS_TOOLS of the parts.
#
# Each make has a process group of its own, which ends by a signal to this script: without
# job control, a shell's background jobs ignore Ctrl-C.
set -euo pipefail
set -m

mkdir -p bin
rm -f bin/times
export TIMES=$PWD/bin/times
exec 9>&1 # for timed.sh; lower ones may be those of make's jobserver
status=0
groups=()

# shellcheck disable=SC2317 # the trap calls it
end() {
	trap '' INT TERM HUP
	for group in "${groups[@]}"; do
		kill -TERM -- "-$group" 2>/dev/null || true
	done
	wait
	exit 130
}
trap end INT TERM HUP

run() { # <jobs> <targets>
	read -ra targets <<<"$2"
	"$MAKE" --no-print-directory --keep-going --output-sync=target --jobs="$1" "${targets[@]}" </dev/null &
	groups+=($!)
	wait $! || status=$?
}

run "$JOBS" "$TOOLS"
e2e=
if [ "$status" = 0 ]; then
	# One job, whatever the jobs of the make that called this one.
	"$MAKE" --no-print-directory --jobs=1 timed/e2e </dev/null >bin/e2e.log 2>&1 &
	e2e=$!
	groups+=("$e2e")
	if [ "$JOBS" = 1 ]; then
		wait "$e2e" || status=$?
	fi
else
	PARTS=${PARTS/$NEEDS_TOOLS/}
fi
run $((JOBS > 1 ? JOBS - 1 : 1)) "$PARTS"
if [ -n "$e2e" ]; then
	wait "$e2e" || status=$?
	cat bin/e2e.log
else
	echo 'The end-to-end tests have not run: their tools could not be built.'
fi
tools/parts/report.sh bin/times
exit "$status"
