package vaultserver

import (
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
)

// environment returns the environment of this process without the variables of Vault and
// OpenBao, and with added. Settings of the caller must not have an effect: VAULT_AGENT_ADDR, for
// example, overrides VAULT_ADDR, and would make the demo write to the caller's own Vault.
func environment(added ...string) []string {
	var environ []string
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "VAULT_") && !strings.HasPrefix(variable, "BAO_") {
			environ = append(environ, variable)
		}
	}
	return append(environ, added...)
}

// pointing returns the environment of a client of the server.
func (s *Server) pointing(token string) []string {
	return environment(
		"HOME="+s.dir,
		"VAULT_ADDR="+s.Address, "VAULT_TOKEN="+token, "VAULT_CLI_NO_COLOR=1",
		"BAO_ADDR="+s.Address, "BAO_TOKEN="+token, "BAO_CLI_NO_COLOR=1",
	)
}

// config returns the configuration of a client of the server. It does not use
// api.DefaultConfig, which reads the environment, such as the address of an Agent or a proxy.
func (s *Server) config() *api.Config {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil
	transport.MaxIdleConnsPerHost = transport.MaxIdleConns // there is one host
	return &api.Config{
		Address: s.Address,
		HttpClient: &http.Client{
			Transport: transport,
			// The api package follows redirects itself.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		Timeout:    time.Minute,
		MaxRetries: 0, // callers check every response
	}
}
