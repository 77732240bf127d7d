package tokenbroker_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/canary"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// A witness hears everything that an engine answers, but for access tokens where they
// belong, and everything that it logs.
type witness struct {
	mu     sync.Mutex
	said   strings.Builder
	logged bytes.Buffer
}

// listen has an engine begin anew, and log at every level.
func (w *witness) listen(e *engine) {
	e.logger = hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: &w.logged})
	e.restart()
}

func (w *witness) hear(t *testing.T, path string, resp *logical.Response, message string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	fmt.Fprintln(&w.said, message)
	if resp == nil {
		return
	}
	heard := *resp
	heard.Data = withoutToken(path, resp.Data)
	// As a client sees it, and as it is: what has been escaped twice is no less a leak.
	raw, err := json.Marshal(heard)
	require.NoError(t, err)
	fmt.Fprintln(&w.said, string(raw), heard.Data, heard.Warnings)
	if heard.Secret != nil {
		fmt.Fprintln(&w.said, heard.Secret.InternalData)
	}
}

// leaks are how many secrets were heard: of those that an operator wrote, and of those
// that a vendor was sent or has made.
func (w *witness) leaks(e *engine, written []string) int {
	e.t.Helper()
	var cage canary.Cage
	for _, secret := range slices.Concat(written, e.sim.Secrets(), sentBasic(e.sim.Calls())) {
		cage.Add(secret)
		if len(secret) >= 2*endSize {
			cage.Add(secret[:endSize], secret[len(secret)-endSize:])
		}
	}
	// Those that vendors are made to repeat, in all the ways that they are.
	for _, secret := range written {
		for _, encode := range vendorsim.Encodings {
			cage.Add(encode(secret))
		}
	}
	count := 0
	for what, text := range map[string]string{"an answer": w.said.String(), "the log": w.logged.String()} {
		assert.NotEmpty(e.t, text)
		for _, leak := range cage.Escaped(text) {
			count++
			assert.Fail(e.t, "promise 6: a secret leaves", "%s holds %s", what, leak)
		}
	}
	return count
}

// sentBasic are what clients have proved themselves by in a header.
func sentBasic(calls []vendorsim.Call) []string {
	var sent []string
	for _, call := range calls {
		if basic, ok := strings.CutPrefix(call.Header.Get("Authorization"), "Basic "); ok {
			sent = append(sent, basic)
		}
	}
	return sent
}

// endSize is how much of a secret's beginning or end is a leak already.
const endSize = 16
