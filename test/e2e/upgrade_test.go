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

// nextVersion is the minor version that follows the one under test.
func (w *world) nextVersion(t *testing.T) string {
	t.Helper()
	var major, minor int
	_, err := fmt.Sscanf(w.version, "v%d.%d.", &major, &minor)
	require.NoError(t, err, w.version)
	next := fmt.Sprintf("v%d.%d.0", major, minor+1)
	require.NotEqual(t, w.version, next)
	return next
}

// buildNext builds the plugin as it ships under another version, in a file of that name.
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

// A stream is readers who read as fast as they can, each by a path of his own.
type stream struct {
	stop  context.CancelFunc
	group sync.WaitGroup

	mu     sync.Mutex
	reads  map[string]int     // by path
	failed map[string][]error // by path
}

// readers start to read, each the token that is to be served at a path. A client tries
// again as often as retries says after an answer of 5xx.
func (w *world) readers(t *testing.T, retries int, tokens map[string]any) *stream {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s := &stream{stop: cancel, reads: map[string]int{}, failed: map[string][]error{}}
	t.Cleanup(s.halt)
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

// readsToken is why a read does not have a token, if it does not. What is not there is no
// error to the client, which returns no secret then.
func readsToken(ctx context.Context, client *api.Client, path string, token any) error {
	secret, err := client.Logical().ReadWithContext(ctx, path)
	switch {
	case err != nil:
		return err
	case secret == nil:
		return fmt.Errorf("%s: 404", path)
	case secret.Data["access_token"] != token:
		return fmt.Errorf("%s: another token than is to be served", path)
	}
	return nil
}

func (s *stream) halt() {
	s.stop()
	s.group.Wait()
}

// assertEachRead is that each of so many readers has read.
func (s *stream) assertEachRead(t *testing.T, readers int) {
	t.Helper()
	assert.Len(t, s.reads, readers)
	for path, reads := range s.reads {
		assert.Positive(t, reads, path)
	}
}

// runVersion has a mount run a version: what README and docs/operations.md say to do.
func (m *mount) runVersion(version string) {
	m.t.Helper()
	require.NoError(m.t, m.root.Sys().TuneMountAllowNilWithContext(m.t.Context(), m.path, api.TuneMountConfigInput{PluginVersion: &version}))
	_, err := m.root.Sys().ReloadPluginWithContext(m.t.Context(), &api.ReloadPluginInput{Mounts: []string{m.path + "/"}})
	require.NoError(m.t, err)
	mounts, err := m.root.Sys().ListMountsWithContext(m.t.Context())
	require.NoError(m.t, err)
	assert.Equal(m.t, version, mounts[m.path+"/"].RunningVersion)
}

// newUpgrade is a server that has this version of the plugin and the next, each under two
// names.
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

// ownProcess is the plugin by another name, under which it has a process of its own.
const ownProcess = "tokenbroker-search"

// No read fails in an upgrade or a rollback of a mount that has the plugin's process to
// itself, whatever its clients do; nor at another mount, whose process it is not. Nobody
// notices but by the version: tokens are those of before, and no vendor is called.
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
	readers.halt()
	t.Logf("%v reads in 8 upgrades and 8 rollbacks of two mounts, %v failed", readers.reads, readers.failed)
	assert.Empty(t, readers.failed)
	readers.assertEachRead(t, 4)
	assert.Len(t, m.sim.Calls(), calls, "no vendor was called")

	m.runVersion(nextVersion)
	m.write("refresh/prod", nil) // with the refresh token that replaced the written one
	newer := m.creds("prod").Data["access_token"]
	require.NotEqual(t, token, newer)
	m.runVersion(own.version)
	assert.Equal(t, newer, m.creds("prod").Data["access_token"])
	m.write("refresh/prod", nil) // with the one that the newer version was given
	assert.NotEqual(t, newer, m.creds("prod").Data["access_token"])
}

// Mounts of one name and version share a process, and the first one to be reloaded takes
// that from the others, in whose reads Vault answers 500 until it has started another.
// A client that tries again until then sees none of it. The usual two retries, about a
// second apart, are enough for a process that starts within that, and not on a busy machine.
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
			// From its reload on, a mount has a process: no retry is needed any more.
			first.runVersion(version)
			assert.Equal(t, token, first.creds("search").Data["access_token"], version)
			second.runVersion(version)
			assert.Equal(t, ofSecond, second.creds("search").Data["access_token"], version)
		}
	}
	raw.halt()
	patient.halt()
	failed := 0
	for path, errs := range raw.failed {
		failed += len(errs)
		assert.True(t, strings.HasPrefix(path, "second/"), "%s: the mount that is reloaded first fails in no read: %v", path, errs)
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

// awaitToken waits until the mount serves a token of prod. A snapshot, or a move, is over
// then: either is answered before it has taken effect, when the mount may serve another, or
// none, for it is not there or what it had was deleted.
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
