// Package authserver runs an OAuth 2.0 authorization server that nobody here wrote, for
// the end-to-end tests: npm's oidc-provider, on a free loopback port.
package authserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/testing/process"
)

// A Server is a process that this one started.
type Server struct {
	// Issuer is its URL.
	Issuer string

	process  *process.Process
	lifeline io.Closer // it ends with this process, if that cannot stop it
}

// startTimeout is how long a server has until it serves.
const startTimeout = 5 * time.Minute

// Start starts a server that knows some clients. The script is tools/oidc-provider's;
// output goes to log.
func Start(ctx context.Context, script string, log io.Writer, clients ...Client) (*Server, error) {
	known, err := json.Marshal(append(clients, api))
	if err != nil {
		return nil, err
	}
	// It ends by Stop, in order, and not with a context.
	cmd := exec.CommandContext(context.Background(), "node", script, string(known))
	cmd.Stdout, cmd.Stderr = log, log
	s := &Server{}
	if s.lifeline, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := s.launch(ctx, cmd); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if _, err := s.Metadata(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("the authorization server does not serve: %w", err), s.Stop())
	}
	return s, nil
}

// launch starts the server on a socket that is open before it runs: no port is chosen
// that somebody else could take meanwhile, and who calls early waits.
func (s *Server) launch(ctx context.Context, cmd *exec.Cmd) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	socket, err := listener.(*net.TCPListener).File()
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	s.Issuer = "http://" + listener.Addr().String()
	cmd.ExtraFiles = []*os.File{socket}
	s.process, err = process.Start(cmd)
	// The server's alone from now on, or its callers would wait on when it has ended.
	return errors.Join(err, socket.Close(), listener.Close())
}

// Stop ends the server.
func (s *Server) Stop() error {
	err := s.process.Stop()
	_ = s.lifeline.Close() // it has been, with the process
	return err
}

// Metadata are what the server publishes about itself (RFC 8414).
type Metadata struct {
	Issuer                string `json:"issuer"`
	AuthorizationEndpoint string `json:"authorization_endpoint"`
	TokenEndpoint         string `json:"token_endpoint"`
	RevocationEndpoint    string `json:"revocation_endpoint"`
	IntrospectionEndpoint string `json:"introspection_endpoint"`
}

// Metadata asks the server for its metadata.
func (s *Server) Metadata(ctx context.Context) (*Metadata, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Issuer+"/.well-known/oauth-authorization-server", nil)
	if err != nil {
		return nil, err
	}
	metadata := &Metadata{}
	return metadata, call(req, metadata)
}

// api is whoever is given access tokens, and asks the server whether they are good.
var api = Unattended("api", "secret-of-the-api", "client_secret_basic")

// An Introspection is what the server says of a token (RFC 7662 §2.2).
type Introspection struct {
	Active bool   `json:"active"`
	Client string `json:"client_id"`
	Scope  string `json:"scope"`
}

// Introspect asks the server for one of its tokens, as an API would.
func (s *Server) Introspect(ctx context.Context, token string) (*Introspection, error) {
	metadata, err := s.Metadata(ctx)
	if err != nil {
		return nil, err
	}
	form := url.Values{"token": {token}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, metadata.IntrospectionEndpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(url.QueryEscape(api.ID), url.QueryEscape(api.Secret))
	said := &Introspection{}
	return said, call(req, said)
}

// call is a request that must be answered with 200, and JSON.
func call(req *http.Request, body any) error {
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", req.URL.Path, res.Status, raw)
	}
	return json.Unmarshal(raw, body)
}
