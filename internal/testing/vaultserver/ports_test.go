package vaultserver

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestServersReserveDifferentPorts(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	taken := map[string]bool{}
	for range 200 {
		p, err := reservePorts(t.Context())
		require.NoError(t, err)
		t.Cleanup(p.release)
		for _, address := range []string{p.listen, p.cluster} {
			assert.False(t, taken[address], "%s is reserved, although nothing listens on it yet", address)
			taken[address] = true
		}
	}
}

func TestALockedFileIsNotLockedAgainUntilItIsReleased(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	held, err := lockFile(path)
	require.NoError(t, err)
	again, err := lockFile(path)
	require.NoError(t, err)
	assert.Nil(t, again)

	(&ports{lock: held}).release()
	assert.NoFileExists(t, path)
	again, err = lockFile(path)
	require.NoError(t, err)
	require.NotNil(t, again)
	require.NoError(t, again.Close())
}

// The server is a program that exits at once, as Vault does if its port is taken.
func TestAServerThatEndsAsItStartsIsStartedOnOtherPorts(t *testing.T) {
	dir := t.TempDir()
	binary, started := filepath.Join(dir, "vault"), filepath.Join(dir, "started")
	script := "#!/bin/sh\n[ \"$1\" = version ] || echo \"$@\" >>" + started + "\n"
	require.NoError(t, os.WriteFile(binary, []byte(script), 0o700))
	_, err := StartDev(t.Context(), binary, io.Discard)
	require.ErrorIs(t, err, errEnded)

	starts, err := os.ReadFile(started)
	require.NoError(t, err)
	addresses := regexp.MustCompile(`-dev-listen-address=\S+`).FindAllString(string(starts), -1)
	require.Len(t, addresses, startAttempts)
	assert.NotEqual(t, addresses[0], addresses[1])

	require.NoError(t, os.Remove(started))
	_, err = StartCluster(t.Context(), binary, io.Discard)
	require.ErrorIs(t, err, errEnded)
	starts, err = os.ReadFile(started)
	require.NoError(t, err)
	assert.Equal(t, startAttempts, strings.Count(string(starts), "\n"), "one start per cluster, because its first node ends")
}
