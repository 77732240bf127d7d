package main

import (
	"context"
	"io"
	"net/http"
	"path/filepath"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
)

// peer is the name of the other engine in Vault's catalog, and of its mount. It must have the paths of
// openbao-plugin-secrets-oauthapp: servers/<name> for an authorization server, and self/<name> for a token of
// the client credentials grant, which the engine caches.
const peer = "peer"

// peerTokenPath is the path of the authorization server that issues the peer's token.
const peerTokenPath = "/peer/token"

// comparePeer compares the peer's cached read with the yardstick, in a server without the engine. The
// answers of the two have other fields, which the comparison of the engine does not.
func (b *bench) comparePeer(ctx context.Context) (c comparison, err error) {
	return c, b.in(ctx, vaultserver.StartDev, func(w *world) error {
		if err := w.mount(ctx, yardstick, yardstick); err != nil {
			return err
		}
		if err := w.fillPeer(ctx); err != nil {
			return err
		}
		c, err = w.compare(ctx, "the peer's self/, dev",
			side{path: filepath.Join(peer, "self"), names: 1, plugin: b.peer},
			side{path: filepath.Join(yardstick, "token"), names: 1, plugin: b.yardstick})
		return err
	})
}

// fillPeer mounts the peer, and writes a credential whose token is cached then.
func (w *world) fillPeer(ctx context.Context) error {
	if err := w.register(ctx, peer, w.peer); err != nil {
		return err
	}
	if err := w.mount(ctx, peer, peer); err != nil {
		return err
	}
	for _, write := range []struct {
		path string
		data map[string]any
	}{
		{"servers/bench", map[string]any{
			"provider": "custom", "client_id": "bench", "client_secret": "bench-secret",
			"provider_options": map[string]any{"token_url": w.root + peerTokenPath, "auth_style": "in_header"},
		}},
		{"self/" + name(0), map[string]any{"server": "bench"}},
	} {
		if _, err := w.client.Logical().WriteWithContext(ctx, peer+"/"+write.path, write.data); err != nil {
			return err
		}
	}
	return nil
}

// withPeerTokens returns a handler that issues the peer's tokens, which last a day, and passes other
// requests on.
func withPeerTokens(others http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != peerTokenPath {
			others.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"at-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789ABCDEFGH","token_type":"Bearer","expires_in":86400}`)
	})
}
