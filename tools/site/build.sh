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

# Hugo empties the folder. So it must be one that this script wrote.
if [ -n "$(ls -A "$site" 2>/dev/null)" ] && { [ ! -e "$site/site.css" ] || [ ! -e "$site/vendors.js" ]; }; then
	echo "site: $site is not empty and was not written by \`make site\`: remove it, or set SITE=<folder>" >&2
	exit 1
fi
cp -r tools/site/{hugo.toml,layouts,static} "$work"
mermaid=tools/site/node_modules/@mermaid-js/tiny
cp $mermaid/dist/mermaid.tiny.js "$work/static/mermaid.js"
cp $mermaid/LICENSE "$work/static/mermaid.txt"

# The files of the repository, and new ones that Git does not ignore. The commands of the pages write
# secrets into a clone, to files that .gitignore names. Hugo calls the page of a folder _index.md.
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
