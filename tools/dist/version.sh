#!/usr/bin/env bash
# Refuses a version that is no tag of ours: vX.Y.Z, or vX.Y.Z-pre, by the rules of
# Semantic Versioning. It becomes part of commands and file names, Vault's catalog orders
# by it, and build metadata (+...) are no part of an OCI tag.
set -euo pipefail

number='(0|[1-9][0-9]*)'
identifier="($number|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)"
if [[ ! ${VERSION-} =~ ^v$number\.$number\.$number(-$identifier(\.$identifier)*)?$ ]]; then
	printf 'VERSION is %q, and must be like v1.2.3 or v1.2.3-rc.1.\n' "${VERSION-}" >&2
	exit 1
fi
