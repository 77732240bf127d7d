#!/usr/bin/env bash
# Fails unless VERSION has the form vX.Y.Z or vX.Y.Z-pre of Semantic Versioning. The version
# becomes part of commands and file names, and Vault's catalog sorts by it. Build metadata
# (+...) is not allowed, because an OCI tag cannot contain it.
set -euo pipefail

number='(0|[1-9][0-9]*)'
identifier="($number|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)"
if [[ ! ${VERSION-} =~ ^v$number\.$number\.$number(-$identifier(\.$identifier)*)?$ ]]; then
	printf 'invalid VERSION %q: use the form v1.2.3 or v1.2.3-rc.1\n' "${VERSION-}" >&2
	exit 1
fi
