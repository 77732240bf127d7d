#!/usr/bin/env bash
# Builds the Debian package of VERSION for GOARCH, from the files of an archive and its SBOM, with
# NFPM. SOURCE_DATE_EPOCH is the time of its files. dist.sh calls this script.
#
# Usage: deb.sh <folder of the binary> <SBOM> <package to write>
set -euo pipefail

export FOLDER=$1 SBOM=$2
# A package's name must be lower case, which a version need not be.
export PACKAGE=vault-plugin-secrets-tokenbroker-${VERSION,,}
"$NFPM" package --config tools/dist/nfpm.yaml --packager deb --target "$3" >/dev/null
