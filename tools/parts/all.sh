#!/usr/bin/env bash
# Runs the parts of `make test`, with at most JOBS targets of MAKE in parallel. It first builds
# TOOLS, which the end-to-end tests need, and then runs these tests beside PARTS. If the tools
# cannot be built, the end-to-end tests and the part NEEDS_TOOLS do not run.
#
# Each make runs in its own process group (set -m), because background jobs of a shell without
# job control ignore Ctrl-C. A signal to this script ends all groups.
set -euo pipefail
set -m

mkdir -p bin
rm -f bin/times
export TIMES=$PWD/bin/times
exec 9>&1 # for timed.sh; make's jobserver may use lower descriptors
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
	# --jobs=1 overrides the number of jobs of a make that called this script.
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
	echo 'The end-to-end tests did not run, because the build of their tools failed.'
fi
tools/parts/report.sh bin/times
exit "$status"
