package vaultserver

import (
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
)

// environment is what a process inherits of this one, and what is added. The settings of
// whoever runs this stay behind: VAULT_AGENT_ADDR, for one, is stronger than VAULT_ADDR,
// and would have the demo write to a Vault of theirs.
func environment(added ...string) []string {
	var environ []string
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "VAULT_") && !strings.HasPrefix(variable, "BAO_") {
			environ = append(environ, variable)
		}
	}
	return append(environ, added...)
}

// pointing is the environment that points a client at the server.
func (s *Server) pointing(token string) []string {
	return environment(
		"HOME="+s.dir,
		"VAULT_ADDR="+s.Address, "VAULT_TOKEN="+token, "VAULT_CLI_NO_COLOR=1",
		"BAO_ADDR="+s.Address, "BAO_TOKEN="+token, "BAO_CLI_NO_COLOR=1",
	)
}

// config points the library at the server. It is not api.DefaultConfig, which reads the
// environment: an agent, a proxy, a limit.
func (s *Server) config() *api.Config {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil
	transport.MaxIdleConnsPerHost = transport.MaxIdleConns // there is one host
	return &api.Config{
		Address: s.Address,
		HttpClient: &http.Client{
			Transport: transport,
			// The library follows redirects itself.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		Timeout:    time.Minute,
		MaxRetries: 0, // who calls wants to see each answer
	}
}
