// Package authserver runs a third-party OAuth 2.0 authorization server for the end-to-end
// tests: the npm package oidc-provider, on a free loopback port.
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

// A Server is an authorization server in a child process.
type Server struct {
	// Issuer is the URL of the server.
	Issuer string

	process  *process.Process
	lifeline io.Closer // the server's standard input; the server exits when this process ends
}

// startTimeout bounds the time until a server answers.
const startTimeout = 5 * time.Minute

// Start starts a server with the given clients, and waits until it answers. script is the path
// of tools/oidc-provider/server.mjs. The output of the server goes to log.
func Start(ctx context.Context, script string, log io.Writer, clients ...Client) (*Server, error) {
	known, err := json.Marshal(append(clients, api))
	if err != nil {
		return nil, err
	}
	// Stop ends the process gracefully; the end of a context would kill it.
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
		return nil, errors.Join(fmt.Errorf("the authorization server does not answer: %w", err), s.Stop())
	}
	return s, nil
}

// launch starts the server on a socket that is already listening. No other process can take the
// port in between, and early requests wait in the queue of the socket.
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
	// If this process kept the socket open, requests would hang after the server has ended.
	return errors.Join(err, socket.Close(), listener.Close())
}

// Stop stops the server.
func (s *Server) Stop() error {
	err := s.process.Stop()
	_ = s.lifeline.Close() // already closed if the process has ended
	return err
}

// Metadata is the authorization server metadata (RFC 8414).
type Metadata struct {
	Issuer                string `json:"issuer"`
	AuthorizationEndpoint string `json:"authorization_endpoint"`
	TokenEndpoint         string `json:"token_endpoint"`
	RevocationEndpoint    string `json:"revocation_endpoint"`
	IntrospectionEndpoint string `json:"introspection_endpoint"`
}

// Metadata returns the metadata that the server publishes.
func (s *Server) Metadata(ctx context.Context) (*Metadata, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Issuer+"/.well-known/oauth-authorization-server", nil)
	if err != nil {
		return nil, err
	}
	metadata := &Metadata{}
	return metadata, call(req, metadata)
}

// api is the client of an API, which introspects the access tokens that it receives.
var api = Unattended("api", "secret-of-the-api", "client_secret_basic")

// An Introspection is the server's response about a token (RFC 7662 §2.2).
type Introspection struct {
	Active bool   `json:"active"`
	Client string `json:"client_id"`
	Scope  string `json:"scope"`
}

// Introspect asks the server about a token, as an API does that receives it.
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

// call sends a request and decodes the JSON response into body. A status other than 200 is an
// error.
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
