package faults_test

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	tokenbroker "vault-plugin-secrets-tokenbroker"
	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// storageDump has all storage entries of a mount, and the time at which they were read.
type storageDump struct {
	Time    time.Time
	Entries map[string]json.RawMessage
}

// idp is an OAuth 2.0 vendor at every host that is not one of the simulated vendors'. It rotates
// refresh tokens.
type idp struct {
	others          http.RoundTripper
	refresh         map[string]bool // valid refresh tokens
	revoked         []string
	failsRevocation bool
	count           int
}

func (v *idp) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.HasSuffix(r.URL.Host, "kensho.com") || strings.HasSuffix(r.URL.Host, "rfksrv.com") || strings.HasSuffix(r.URL.Host, "okta.com") {
		return v.others.RoundTrip(r)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, err
	}
	status, answer := v.answer(r.URL.Path, form)
	header := http.Header{"Content-Type": {"application/json"}, "Date": {time.Now().UTC().Format(http.TimeFormat)}}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(answer)), Request: r, ProtoMajor: 1, ProtoMinor: 1}, nil
}

func (v *idp) answer(path string, form url.Values) (status int, answer string) {
	v.count++
	refresh := form.Get("refresh_token")
	switch {
	case path == "/revoke" && v.failsRevocation:
		return http.StatusServiceUnavailable, `{}`
	case path == "/revoke":
		v.revoked = append(v.revoked, form.Get("token"))
		return http.StatusOK, `{}`
	case form.Get("scope") == "forbidden":
		return http.StatusBadRequest, `{"error":"invalid_scope"}`
	case refresh == "":
		return http.StatusOK, fmt.Sprintf(`{"access_token":"idp-access-token-%d","token_type":"Bearer","expires_in":3600}`, v.count)
	case !v.refresh[refresh]:
		return http.StatusBadRequest, `{"error":"invalid_grant"}`
	}
	delete(v.refresh, refresh)
	next := fmt.Sprintf("idp-refresh-token-%d", v.count)
	v.refresh[next] = true
	return http.StatusOK, fmt.Sprintf(`{"access_token":"idp-access-token-%d","refresh_token":%q,"token_type":"Bearer","expires_in":3600}`, v.count, next)
}

// stuckStorage refuses to write one entry.
type stuckStorage struct {
	logical.Storage
	stuck string
}

func (s *stuckStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if entry.Key == s.stuck {
		return errors.New("storage is stuck")
	}
	return s.Storage.Put(ctx, entry)
}

// fullMount is a mount that fill gives a storage entry of each kind.
type fullMount struct {
	t       *testing.T
	sim     *vendorsim.Sim
	idp     *idp
	storage *stuckStorage
	logger  hclog.Logger
	backend logical.Backend
}

func newFullMount(t *testing.T) *fullMount {
	t.Helper()
	d := &fullMount{t: t, sim: vendorsim.New(), storage: &stuckStorage{Storage: &logical.InmemStorage{}}, logger: hclog.NewNullLogger()}
	d.idp = &idp{others: d.sim.Transport(), refresh: map[string]bool{}}
	d.sim.Behave(vendorsim.Conduct{Rotate: true, Skew: 7 * time.Second})
	d.start()
	return d
}

func (d *fullMount) start() {
	d.t.Helper()
	d.backend = tokenbroker.New(tokenbroker.Options{Transport: d.idp})
	require.NoError(d.t, d.backend.Setup(context.Background(), &logical.BackendConfig{
		Logger: d.logger, StorageView: d.storage, BackendUUID: "test",
		System: &logical.StaticSystemView{DefaultLeaseTTLVal: 24 * time.Hour, MaxLeaseTTLVal: 32 * 24 * time.Hour, ReplicationStateVal: engine.Unreplicated},
	}))
}

// ask sends a request, and returns nil if the request fails.
func (d *fullMount) ask(op logical.Operation, path string, data map[string]any) *logical.Response {
	req := &logical.Request{Operation: op, Path: path, Data: data, Storage: d.storage}
	if op == logical.UpdateOperation {
		if checked, exists, err := d.backend.HandleExistenceCheck(context.Background(), req); err == nil && checked && !exists {
			req.Operation = logical.CreateOperation
		}
	}
	resp, err := d.backend.HandleRequest(context.Background(), req)
	switch {
	case err != nil || resp != nil && resp.IsError():
		d.t.Logf("%s %s: %v, %v", op, path, err, resp)
		return nil
	case resp == nil:
		return &logical.Response{}
	}
	return resp
}

func (d *fullMount) write(path string, data map[string]any) *logical.Response {
	return d.ask(logical.UpdateOperation, path, data)
}

// registerKeypair generates an active or pending key pair, and adds it to the simulated Kensho.
func (d *fullMount) registerKeypair(name, field, client string) {
	made := d.write("keypair/"+name, nil)
	if made == nil {
		return
	}
	block, _ := pem.Decode([]byte(made.Data[field].(string)))
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	require.NoError(d.t, err)
	d.sim.AddClient(client, key.(*rsa.PublicKey), "")
}

// fill writes, reads and refreshes until storage has an entry of each kind.
func (d *fullMount) fill() {
	for _, token := range []string{engine.RefreshToken, "unchecked-refresh-token-of-kensho"} {
		d.sim.AddRefreshToken("link-streaming", token)
	}
	d.sim.AddAPIKey(engine.APIKey)
	d.sim.AddPair("refresh-token-of-sitecore", 24*time.Hour, 7*24*time.Hour)
	for _, client := range []string{engine.ClientID, "0oa1failing2"} {
		d.sim.AddClient(client, &engine.PrivateKey().PublicKey, "")
	}
	d.idp.refresh["refresh-token-of-idp"], d.idp.refresh["another-refresh-token-of-idp"] = true, true
	d.idp.failsRevocation = true
	client := func(more ...string) map[string]any {
		fields := map[string]any{
			"token_url": "https://idp.example/token", "revocation_url": "https://idp.example/revoke", "client_id": "idp-client", "client_secret": "idp-client-secret",
			"scope": "read,write,forbidden", "token_params": map[string]any{"tenant": "t"}, "auth_style": "client_secret_basic",
		}
		for i := 0; i < len(more); i += 2 {
			fields[more[i]] = more[i+1]
		}
		return fields
	}

	engine.Until(0, 10, 0)
	d.write("config/kensho/prod", map[string]any{"refresh_token": engine.RefreshToken, "default_ttl": "50m"})
	d.write("config/kensho/failing", map[string]any{"client_id": "0oa1failing2", "private_key": engine.PrivateKeyPEM()})
	d.write("config/kensho/unchecked", map[string]any{"refresh_token": "unchecked-refresh-token-of-kensho", "verify": false, "request_timeout": "20s", "keepalive_interval": "12h"})
	d.write("config/kensho/batch", map[string]any{"client_id": engine.ClientID, "private_key": engine.PrivateKeyPEM(), "scope": "kensho:app:link"})
	d.write("config/sitecore/search", map[string]any{"api_key": engine.APIKey, "scope": "discover,event", "access_expiry": "12h"})
	d.write("config/sitecore/pair", map[string]any{"refresh_token": "refresh-token-of-sitecore"})
	d.write("config/oauth2/api", client())
	d.write("config/oauth2/rotating", client("refresh_token", "refresh-token-of-idp"))
	d.write("config/oauth2/single", client("refresh_token", "another-refresh-token-of-idp", "single_token", "true"))
	d.write("config/auth0/defined", map[string]any{"domain": "t.eu", "audience": "a", "client_id": "idp-client", "client_secret": "idp-client-secret"})
	d.write("roles/app", map[string]any{"config": "prod", "ttl": "5m", "min_ttl": "1m"})
	d.write("roles/narrow", map[string]any{"config": "search", "scope": "event"})
	d.write("roles/forbidden", map[string]any{"config": "api", "scope": "forbidden"})
	d.write("roles/mine", map[string]any{"config": "api", "scope": "read", "dedicated": true, "max_leases": 3})
	d.registerKeypair("archive", "public_key", "0oa3archive4")
	d.write("config/kensho/archive", map[string]any{"client_id": "0oa3archive4", "private_key_source": "generated"})
	d.registerKeypair("archive", "pending_public_key", "0oa5archive6")

	engine.Until(1, 0, 30)
	d.sim.RevokeCredential("0oa1failing2")
	d.write("config/kensho/pasted", map[string]any{"access_token": "a-pasted-access-token"})
	for _, name := range []string{"prod", "failing", "batch", "archive", "search", "pair", "api", "rotating", "single", "defined"} {
		d.write("refresh/"+name, engine.Drop)
		d.ask(logical.ReadOperation, "creds/"+name, nil)
	}
	for _, role := range []string{"app", "narrow", "forbidden", "mine"} {
		d.ask(logical.ReadOperation, "creds/"+role, nil)
	}

	d.ask(logical.UpdateOperation, "refresh/failing", engine.Drop) // a second rejection

	// An activation that is not yet in the credential's own entry.
	d.registerKeypair("switched", "public_key", "0oa7switched8")
	d.write("config/kensho/switched", map[string]any{"client_id": "0oa7switched8", "private_key_source": "generated"})
	d.registerKeypair("switched", "pending_public_key", "0oa9switched0")
	d.storage.stuck = "config/kensho/switched"
	d.write("keypair/switched/activate", map[string]any{"client_id": "0oa9switched0"})
	d.storage.stuck = ""
}

func (d *fullMount) dump() storageDump {
	d.t.Helper()
	keys, err := logical.CollectKeys(d.t.Context(), d.storage)
	require.NoError(d.t, err)
	dump := storageDump{Time: time.Now().UTC(), Entries: map[string]json.RawMessage{}}
	for _, key := range keys {
		entry, err := d.storage.Get(d.t.Context(), key)
		require.NoError(d.t, err)
		dump.Entries[key] = entry.Value
	}
	return dump
}
