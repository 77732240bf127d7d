#!/usr/bin/env bash
# Installs the Debian packages given, after what they are needed for: as root, or by a sudo
# that asks nothing. Where that does not do, says what will. The Makefile calls it.
set -euo pipefail

need=$1
shift
install=(apt-get install -y --no-install-recommends "$@")
as=()
if [ "$(id -u)" != 0 ]; then as=(sudo -n); fi

try() {
	command -v apt-get >/dev/null || return
	# The package starts a server on all addresses, of which the tests need the program alone.
	if [[ " $* " == *' prometheus '* && -d /run/systemd/system ]]; then
		"${as[@]}" systemctl mask prometheus.service || return
	fi
	"${as[@]}" apt-get update -q && "${as[@]}" env DEBIAN_FRONTEND=noninteractive "${install[@]}"
}

if ! try "$@"; then
	echo "$need is needed, and could not be installed. On Debian and its kin, do" >&2
	echo "    sudo ${install[*]}" >&2
	exit 1
fi
