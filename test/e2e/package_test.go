//go:build e2e && dist

package e2e

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/test/internal/docwalk"
)

// sudo is what the commands of a page run as sudo: dpkg below another root, without root's rights.
const sudo = `#!/bin/sh
[ "$1" = dpkg ] || exit 1
shift
exec fakeroot dpkg --root="$PACKAGE_ROOT" --force-not-root --log=/dev/null "$@"
`

// The page's commands install the package of the release in RELEASE and register the plugin.
func TestTheDebianPackageServesAToken(t *testing.T) {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	installed := packageRoot(t)
	own, err := bareWorld(t.Context(), vaultserver.StartDevWith(filepath.Join(installed, "usr/lib/vault/plugins")))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, own.server.Stop()) })

	dir, bin := t.TempDir(), t.TempDir()
	files, err := filepath.Glob(filepath.Join(os.Getenv("RELEASE"), "vault-plugin-*"))
	require.NoError(t, err)
	require.NotEmpty(t, files, "run this test by `make dist-run`")
	for _, file := range files {
		require.NoError(t, os.Symlink(file, filepath.Join(dir, filepath.Base(file))))
	}
	require.NoError(t, os.WriteFile(filepath.Join(bin, "sudo"), []byte(sudo), 0o700))
	environ := append(readersEnvironment(t, own.server),
		"PACKAGE_ROOT="+installed, "NAME=vault-plugin-secrets-tokenbroker", "VERSION="+own.version, "PLATFORM=linux_"+runtime.GOARCH,
		"PATH="+bin+":"+filepath.Dir(os.Getenv("VAULT"))+":"+os.Getenv("PATH")+":/usr/sbin:/sbin")

	page := parsePage(t, root, "docs/operations.md").Only(docwalk.Package)
	require.NotZero(t, page.Commands())
	ctx, cancel := context.WithTimeout(t.Context(), pageTime)
	defer cancel()
	require.NoError(t, page.Walk(ctx, dir, environ))

	m := own.enable(t, "packaged")
	m.write("config/kensho/prod", m.kensho())
	m.creds("prod")
	mounts, err := own.root.Sys().ListMountsWithContext(t.Context())
	require.NoError(t, err)
	assert.Equal(t, own.version, mounts["packaged/"].RunningVersion)
}

// packageRoot returns a folder in which dpkg can install packages.
func packageRoot(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir()) // as Vault requires of a plugin directory
	require.NoError(t, err)
	for _, folder := range []string{"info", "updates"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "var/lib/dpkg", folder), 0o700))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "var/lib/dpkg/status"), nil, 0o600))
	return dir
}
