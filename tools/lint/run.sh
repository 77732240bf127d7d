#!/usr/bin/env bash
# Lints the Go modules in the given folders, and checks that each go.mod is tidy.
set -euo pipefail

linter=$PWD/bin/golangci-lint
for module in "$@"; do
	(
		cd "$module"
		echo "linting $module"
		"$linter" run
		go mod tidy -diff
	)
done
