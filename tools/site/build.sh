#!/usr/bin/env bash
# Builds the site of the documentation with Hugo: from the pages and the examples as they are in the
# repository, and the layouts beside this script.
#
# Usage: build.sh <folder of the site>
set -euo pipefail

site=$1
hugo=$PWD/bin/hugo
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r tools/site/. "$work"

# Only files of the repository, because the commands of the pages write secrets into a clone. Hugo
# calls the page of a folder _index.md.
git ls-files -z --cached --others --exclude-standard -- \
	README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md LICENSE docs examples |
	while IFS= read -r -d '' file; do
		[ -e "$file" ] || continue # removed, but not committed
		to=$work/content/${file/%README.md/_index.md}
		mkdir -p "${to%/*}"
		cp "$file" "$to"
	done

"$hugo" --source "$work" --destination "$(realpath -m "$site")" --cleanDestinationDir --noBuildLock \
	--cacheDir "$work/cache" --panicOnWarning --quiet
