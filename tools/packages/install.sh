#!/usr/bin/env bash
# Installs Debian packages, as root or with a sudo that needs no password. If that fails, it
# prints the command to run. The Makefile calls this script.
#
# Usage: install.sh <what is missing> <package>...
set -euo pipefail

need=$1
shift
install=(apt-get install -y --no-install-recommends "$@")
as=()
if [ "$(id -u)" != 0 ]; then as=(sudo -n); fi

try() {
	command -v apt-get >/dev/null || return
	# The prometheus package starts a server on all addresses. The tests only need promtool.
	if [[ " $* " == *' prometheus '* && -d /run/systemd/system ]]; then
		"${as[@]}" systemctl mask prometheus.service || return
	fi
	"${as[@]}" apt-get update -q && "${as[@]}" env DEBIAN_FRONTEND=noninteractive "${install[@]}"
}

if ! try "$@"; then
	echo "$need: required, but the installation failed. On Debian or a derivative, run" >&2
	echo "    sudo ${install[*]}" >&2
	exit 1
fi
