//go:build e2e

package e2e

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"
)

// outageTexts are parts of Vault's errors while a plugin's process is gone and not yet restarted,
// while Vault is sealed, and while a cluster has no active node or one that does not answer. The
// engine's own errors never have a gRPC status; such errors are about Vault's connection to the
// process.
var outageTexts = []string{
	"rpc error: code = Unavailable", "connect: no such file or directory", "connect: connection refused",
	"client connection is closing", "plugin is shut down",
	"Vault is sealed", "Vault is in standby mode", "local node not active but active cluster node not found",
	"error during forwarding RPC request",
}

// isVaultsOwn reports whether an error means that Vault or the plugin's process is unavailable,
// which a fault of the test explains. All other errors come from the engine.
func isVaultsOwn(err error) bool {
	var answer *api.ResponseError
	if !errors.As(err, &answer) {
		return true // no answer: the connection was refused or lost
	}
	if answer.StatusCode < http.StatusInternalServerError {
		return false
	}
	for _, text := range outageTexts {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return false
}

// awaitRead waits until a path can be read again after a fault. It fails the test at once on an
// error that is neither Vault's own nor has an expected text.
func awaitRead(t *testing.T, client *api.Client, path string, expected ...string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		_, err := client.Logical().ReadWithContext(t.Context(), path)
		if err == nil {
			return
		}
		isExpected := slices.ContainsFunc(expected, func(text string) bool { return strings.Contains(err.Error(), text) })
		require.True(t, isVaultsOwn(err) || isExpected, "%s: %v", path, err)
		require.True(t, time.Now().Before(deadline), "%s cannot be read: %v", path, err)
	}
}

func TestOnlyVaultsOwnAnswersExplainAFailedRead(t *testing.T) {
	t.Parallel()
	answer := func(status int, text string) error {
		return &api.ResponseError{StatusCode: status, Errors: []string{text}}
	}
	for _, own := range []error{
		errors.New("dial tcp 127.0.0.1:20000: connect: connection refused"),
		answer(500, `rpc error: code = Unavailable desc = connection error: dial unix /tmp/plugin1: connect: no such file or directory`),
		answer(500, "rpc error: code = Unavailable desc = error reading from server: EOF"),
		answer(500, `rpc error: code = Unavailable desc = connection error: desc = "transport: authentication handshake failed: read: connection reset by peer"`),
		answer(503, "Vault is sealed"),
	} {
		require.True(t, isVaultsOwn(own), own)
	}
	for _, ours := range []error{
		answer(400, `no role or credential named "prod"`), answer(500, "cannot read state/prod"),
		answer(502, "invalid response of the vendor"), answer(503, "the vendor is unavailable"),
	} {
		require.False(t, isVaultsOwn(ours), ours)
	}
}
