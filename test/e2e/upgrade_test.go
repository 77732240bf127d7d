//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// nextVersion returns the minor version after the one under test.
func (w *world) nextVersion(t *testing.T) string {
	t.Helper()
	var major, minor int
	_, err := fmt.Sscanf(w.version, "v%d.%d.", &major, &minor)
	require.NoError(t, err, w.version)
	next := fmt.Sprintf("v%d.%d.0", major, minor+1)
	require.NotEqual(t, w.version, next)
	return next
}

// buildNext builds the plugin with another version, in a file named after that version.
func buildNext(t *testing.T, nextVersion string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "vault-plugin-secrets-tokenbroker-"+nextVersion)
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", binary,
		"-ldflags", "-s -w -X vault-plugin-secrets-tokenbroker/internal/version.Version="+nextVersion, "./cmd/vault-plugin-secrets-tokenbroker")
	cmd.Dir, cmd.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	output, err := cmd.CombinedOutput()
	require.NoError(t, err, string(output))
	return binary
}

// stream is a number of readers that read without a pause, each a path of its own.
type stream struct {
	stop  context.CancelFunc
	group sync.WaitGroup

	mu     sync.Mutex
	reads  map[string]int     // by path
	failed map[string][]error // by path
}

// readers starts a reader for each path, which expects the given token there. A client retries an
// answer of 5xx as often as retries says.
func (w *world) readers(t *testing.T, retries int, tokens map[string]any) *stream {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s := &stream{stop: cancel, reads: map[string]int{}, failed: map[string][]error{}}
	t.Cleanup(s.stopReaders)
	for path, token := range tokens {
		config := api.DefaultConfig()
		config.Address, config.MaxRetries = w.server.Address, retries
		client, err := api.NewClient(config)
		require.NoError(t, err)
		client.SetToken(w.server.Token)
		s.group.Go(func() {
			for ctx.Err() == nil {
				err := readsToken(context.WithoutCancel(ctx), client, path, token)
				s.mu.Lock()
				s.reads[path]++
				if err != nil {
					s.failed[path] = append(s.failed[path], err)
				}
				s.mu.Unlock()
			}
		})
	}
	return s
}

// readsToken reads a path, and returns an error if that does not return the token. A path that does
// not exist is not an error to the client, which returns no secret.
func readsToken(ctx context.Context, client *api.Client, path string, token any) error {
	secret, err := client.Logical().ReadWithContext(ctx, path)
	switch {
	case err != nil:
		return err
	case secret == nil:
		return fmt.Errorf("%s: 404", path)
	case secret.Data["access_token"] != token:
		return fmt.Errorf("%s: unexpected token", path)
	}
	return nil
}

func (s *stream) stopReaders() {
	s.stop()
	s.group.Wait()
}

// assertEachRead asserts that each of a number of readers has read.
func (s *stream) assertEachRead(t *testing.T, readers int) {
	t.Helper()
	assert.Len(t, s.reads, readers)
	for path, reads := range s.reads {
		assert.Positive(t, reads, path)
	}
}

// runVersion makes a mount run a version, as README.md and docs/operations.md describe.
func (m *mount) runVersion(version string) {
	m.t.Helper()
	require.NoError(m.t, m.root.Sys().TuneMountAllowNilWithContext(m.t.Context(), m.path, api.TuneMountConfigInput{PluginVersion: &version}))
	_, err := m.root.Sys().ReloadPluginWithContext(m.t.Context(), &api.ReloadPluginInput{Mounts: []string{m.path + "/"}})
	require.NoError(m.t, err)
	mounts, err := m.root.Sys().ListMountsWithContext(m.t.Context())
	require.NoError(m.t, err)
	assert.Equal(m.t, version, mounts[m.path+"/"].RunningVersion)
}

// newUpgrade returns a server with this and the next version of the plugin, each registered under
// two names.
func newUpgrade(t *testing.T) (own *world, nextVersion string) {
	t.Helper()
	own = ownWorld(t, vaultserver.StartRaft)
	nextVersion = own.nextVersion(t)
	next := buildNext(t, nextVersion)
	for _, name := range []string{pluginName, ownProcess} {
		require.NoError(t, own.registerPlugin(t.Context(), "secret", name, os.Getenv("PLUGIN"), "-version="+own.version))
		require.NoError(t, own.registerPlugin(t.Context(), "secret", name, next, "-version="+nextVersion))
	}
	return own, nextVersion
}

// ownProcess is a second name of the plugin. Mounts of that name have a process of their own.
const ownProcess = "tokenbroker-search"

// Given a mount with a process of its own, no read fails during an upgrade or a rollback, at that
// mount or another. The same tokens are served, and no vendor is called.
func TestUpgradeAndRollbackWithNoReadFailing(t *testing.T) {
	t.Parallel()
	own, nextVersion := newUpgrade(t)
	m := own.enable(t, "kensho")
	m.behave(vendorsim.Conduct{Rotate: true})
	m.write("config/kensho/prod", m.kensho())
	m.write("refresh/prod", nil)
	other := own.enableAs(t, ownProcess, "search")
	other.write("config/sitecore/search", other.sitecore())
	token, calls := m.creds("prod").Data["access_token"], len(m.sim.Calls())

	ofOther := other.creds("search").Data["access_token"]
	require.NotEmpty(t, token)
	require.NotEmpty(t, ofOther)

	readers := own.readers(t, 0, map[string]any{
		"kensho/creds/prod": token, "kensho/token/prod": token, "search/creds/search": ofOther, "search/token/search": ofOther,
	})
	for range 4 {
		for _, version := range []string{nextVersion, own.version} {
			m.runVersion(version)
			assert.Equal(t, token, m.creds("prod").Data["access_token"], version)
			other.runVersion(version)
		}
	}
	readers.stopReaders()
	t.Logf("%v reads in 8 upgrades and 8 rollbacks of two mounts, %v failed", readers.reads, readers.failed)
	assert.Empty(t, readers.failed)
	readers.assertEachRead(t, 4)
	assert.Len(t, m.sim.Calls(), calls, "no vendor was called")

	m.runVersion(nextVersion)
	m.write("refresh/prod", nil) // uses the rotated refresh token
	newer := m.creds("prod").Data["access_token"]
	require.NotEqual(t, token, newer)
	m.runVersion(own.version)
	assert.Equal(t, newer, m.creds("prod").Data["access_token"])
	m.write("refresh/prod", nil) // uses the refresh token that the newer version stored
	assert.NotEqual(t, newer, m.creds("prod").Data["access_token"])
}

// Mounts of one name and version share a process. The reload of the first stops that process, and
// reads of the others fail with 500 until Vault has started another one. Clients that retry until
// then see no failure. The usual two retries, about a second apart, are enough unless the machine
// is too busy to start a process in that time.
func TestUpgradeOfMountsThatShareAProcess(t *testing.T) {
	t.Parallel()
	own, nextVersion := newUpgrade(t)
	first, second := own.enable(t, "first"), own.enable(t, "second")
	for _, m := range []*mount{first, second} {
		m.write("config/sitecore/search", m.sitecore())
	}
	token, ofSecond := first.creds("search").Data["access_token"], second.creds("search").Data["access_token"]
	tokens := map[string]any{
		"first/creds/search": token, "first/token/search": token, "second/creds/search": ofSecond, "second/token/search": ofSecond,
	}
	raw := own.readers(t, 0, tokens)
	patient := own.readers(t, int(patience/time.Second), tokens)
	for range 4 {
		for _, version := range []string{nextVersion, own.version} {
			// After its own reload, a mount has a process, and reads need no retry.
			first.runVersion(version)
			assert.Equal(t, token, first.creds("search").Data["access_token"], version)
			second.runVersion(version)
			assert.Equal(t, ofSecond, second.creds("search").Data["access_token"], version)
		}
	}
	raw.stopReaders()
	patient.stopReaders()
	failed := 0
	for path, errs := range raw.failed {
		failed += len(errs)
		assert.True(t, strings.HasPrefix(path, "second/"), "%s: no read of the mount that is reloaded first may fail: %v", path, errs)
		for _, err := range errs {
			assertStatus(t, http.StatusInternalServerError, "", err)
			assert.True(t, isVaultsOwn(err), "%s: %v", path, err)
		}
	}
	t.Logf("%d of %v reads failed without retries, and %v of %v with retries", failed, raw.reads, patient.failed, patient.reads)
	assert.Empty(t, patient.failed)
	raw.assertEachRead(t, len(tokens))
	patient.assertEachRead(t, len(tokens))
}

// awaitToken waits until the mount serves a token of prod. Vault answers the restore of a snapshot
// and the move of a mount before they take effect. Until then, the mount may serve another token,
// not exist, or have no credential.
func (m *mount) awaitToken(token any) {
	m.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		err := readsToken(m.t.Context(), m.root, m.path+"/token/prod", token)
		if err == nil {
			return
		}
		isUnknown := strings.Contains(err.Error(), `no role or credential named "prod"`)
		require.True(m.t, isVaultsOwn(err) || isUnknown, "%v", err)
		require.True(m.t, time.Now().Before(deadline), "%v", err)
	}
}
