#!/usr/bin/env bash
# Builds the files of a release for PLATFORMS: archives, an SBOM for each, Debian packages, an OCI
# image layout and checksums. The build is reproducible: the same commit and the same Go version give the
# same bytes. `make dist` calls this script and sets the variables that it needs.
#
# Usage: dist.sh <folder>
set -euo pipefail
export LC_ALL=C TZ=UTC
umask 022

out=$1
plugin=vault-plugin-secrets-tokenbroker
tar=$(command -v gtar || command -v tar)
if ! "$tar" --version | grep -q 'GNU tar' || ! gzip --version | grep -q '^gzip' || ! command -v sha256sum >/dev/null ||
	! command -v zip >/dev/null || ! command -v jq >/dev/null; then
	echo 'dist: GNU tar, GNU gzip, GNU coreutils, zip and jq are required: install them' >&2
	exit 1
fi
# Timestamps are the time of the commit. Outside a clone, the caller must set this variable.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}

# Remove only a folder that this script wrote.
if [ -e "$out" ] && [ ! -e "$out/SHA256SUMS" ]; then
	echo "dist: $out exists and was not written by \`make dist\`: remove it, or set DIST=<folder>" >&2
	exit 1
fi
rm -rf "$out"
mkdir -p "$out/bin"
touch "$out/SHA256SUMS"
out=$(cd "$out" && pwd)
images=()
for platform in $PLATFORMS; do
	export GOOS=${platform%/*} GOARCH=${platform#*/}
	binary=$plugin
	if [ "$GOOS" = windows ]; then binary=$plugin.exe; fi
	name=${plugin}_${VERSION}_${GOOS}_$GOARCH
	folder=$out/bin/${GOOS}_$GOARCH
	echo "  $platform"

	bash -c "$GO_BUILD"' -o "$@"' build "$folder/$binary" "./cmd/$plugin"
	bash -c "$GO_ENV"' "$@"' bash "$LICENSES" "./cmd/$plugin" >"$folder/THIRD_PARTY_LICENSES"
	install -m 644 LICENSE README.md "$folder"
	touch -d "@$SOURCE_DATE_EPOCH" "$folder"/*
	files=(LICENSE README.md THIRD_PARTY_LICENSES "$binary")
	if [ "$GOOS" = windows ]; then
		(cd "$folder" && zip -qX9 "$out/$name.zip" "${files[@]}")
	else
		"$tar" -C "$folder" --format=ustar --owner=0 --group=0 --numeric-owner -c "${files[@]}" |
			gzip -9n >"$out/$name.tar.gz"
	fi
	# The SBOM is that of the binary, which does not contain the modules that only tests use.
	# jq removes the checksums of cyclonedx-gomod, which differ between build machines.
	bash -c "$GO_ENV"' "$@"' bash "$SBOM" bin -json -std -noserial -notimestamp -version "$VERSION" "$folder/$binary" |
		jq 'del(.metadata.tools[].hashes)' >"$out/$name.cdx.json"
	if [ "$GOOS" = linux ]; then
		images+=("$platform=$folder")
		tools/dist/deb.sh "$folder" "$out/$name.cdx.json" "$out/$name.deb"
	fi
done
unset GOOS GOARCH

"$OCI" -version "$VERSION" -created "$SOURCE_DATE_EPOCH" "$out/oci" "${images[@]}"
"$tar" -C "$out/oci" --format=ustar --owner=0 --group=0 --numeric-owner --sort=name --mtime="@$SOURCE_DATE_EPOCH" \
	--mode=u=rwX,go=rX -cf "$out/${plugin}_${VERSION}_oci.tar" blobs index.json oci-layout

cd "$out"
# Vault's catalog and OpenBao's configuration require the checksum of the binary.
(cd bin && sha256sum ./*/$plugin*) | sed 's| \./| |' >"${plugin}_${VERSION}_binaries.sha256"
sha256sum $plugin* >SHA256SUMS
