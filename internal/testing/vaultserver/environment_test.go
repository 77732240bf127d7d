package vaultserver

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// setTheirs sets the variables that an operator may have set, with the address of another
// server, which fails the test on a request.
func setTheirs(t *testing.T) {
	t.Helper()
	theirs := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("request to the operator's own Vault: %s", r.URL)
	}))
	t.Cleanup(theirs.Close)
	for _, prefix := range []string{"VAULT_", "BAO_"} {
		for _, name := range []string{"ADDR", "AGENT_ADDR", "PROXY_ADDR", "HTTP_PROXY"} {
			t.Setenv(prefix+name, theirs.URL)
		}
		t.Setenv(prefix+"TOKEN", "theirs")
		t.Setenv(prefix+"NAMESPACE", "theirs")
		t.Setenv(prefix+"HEADERS", `{"Theirs": "theirs"}`)
		t.Setenv(prefix+"WRAP_TTL", "5m")
		t.Setenv(prefix+"FORMAT", "json")
		t.Setenv(prefix+"RATE_LIMIT", "1:1")
	}
}

// started returns a server whose binary appends its environment to a file.
func started(t *testing.T, address string) *Server {
	t.Helper()
	dir := t.TempDir()
	binary := filepath.Join(dir, "vault")
	require.NoError(t, os.WriteFile(binary, []byte("#!/bin/sh\nenv >>env\n"), 0o700))
	return &Server{Address: address, Token: RootToken, binary: binary, dir: dir, log: io.Discard, environ: []string{"VAULT_LOG_LEVEL=trace"}}
}

// received returns the VAULT_ and BAO_ variables that the binary had in its environment.
func received(t *testing.T, dir string) []string {
	t.Helper()
	printed, err := os.ReadFile(filepath.Join(dir, "env"))
	require.NoError(t, err)
	assert.Contains(t, string(printed), "PATH=", "other variables are inherited")
	var received []string
	for line := range strings.Lines(string(printed)) {
		if strings.HasPrefix(line, "VAULT_") || strings.HasPrefix(line, "BAO_") {
			received = append(received, strings.TrimSpace(line))
		}
	}
	slices.Sort(received)
	return received
}

func pointingAt(address, token string) []string {
	return []string{
		"BAO_ADDR=" + address, "BAO_CLI_NO_COLOR=1", "BAO_TOKEN=" + token,
		"VAULT_ADDR=" + address, "VAULT_CLI_NO_COLOR=1", "VAULT_TOKEN=" + token,
	}
}

func TestTheServerInheritsNoSettingsOfVault(t *testing.T) {
	setTheirs(t)
	s := started(t, "http://127.0.0.1:1")
	require.NoError(t, s.launch())
	<-s.process.Ended()
	assert.Equal(t, []string{"VAULT_LOG_LEVEL=trace"}, received(t, s.dir))
}

func TestACommandInheritsNoSettingsOfVault(t *testing.T) {
	setTheirs(t)
	s := started(t, "http://127.0.0.1:1")
	require.NoError(t, s.Command(t.Context(), "mine", "status").Run())
	all := append(pointingAt(s.Address, "mine"), "BAO_MAX_RETRIES=0", "VAULT_MAX_RETRIES=0")
	assert.ElementsMatch(t, all, received(t, s.dir))
}

func TestAnAgentInheritsNoSettingsOfVault(t *testing.T) {
	setTheirs(t)
	s := started(t, "http://127.0.0.1:1")
	agent, err := s.StartAgent(s.dir, io.Discard, "agent")
	require.NoError(t, err)
	<-agent.Ended()
	assert.Equal(t, pointingAt(s.Address, ""), received(t, s.dir))
}

func TestTheClientHasNoSettingsOfVault(t *testing.T) {
	setTheirs(t)
	var headers http.Header
	ours := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		headers = r.Header
		w.WriteHeader(http.StatusNoContent)
	}))
	defer ours.Close()
	client, err := started(t, ours.URL).Client()
	require.NoError(t, err)

	_, err = client.Logical().ReadWithContext(t.Context(), "kensho/status/prod")
	require.NoError(t, err)
	assert.Nil(t, client.Limiter(), "VAULT_RATE_LIMIT is the operator's")
	assert.Equal(t, []string{RootToken}, headers["X-Vault-Token"])
	assert.Equal(t, []string{"true"}, headers["X-Vault-Request"])
	for _, name := range []string{"Theirs", "X-Vault-Namespace", "X-Vault-Wrap-Ttl"} {
		assert.NotContains(t, headers, name)
	}
}
