package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// The credentials that the simulated vendors accept.
const (
	refreshToken = "rt-7f3c9e51d2"
	clientID     = "0oa4demo7client"
	apiKey       = "01-5d1f0c3a-demo"
)

type tutorial struct {
	*shell
	vendors   *vendorsim.Sim
	vendorURL string
	plugin    string
	log       io.Writer // of the Agent's output

	tokens map[string]string // by the path they were read from
	lease  string            // the lease of kensho/creds/prod
}

func (t *tutorial) run() error {
	t.heading("# The token broker: long-lived credentials in, short-lived access tokens out")
	t.say("A %s server runs in dev mode at %s, with simulated vendors\n"+
		"(Kensho and Sitecore Search) at %s.", t.name, t.server.Address, t.vendorURL)
	if err := t.awaitHour(); err != nil {
		return err
	}
	t.command("export VAULT_ADDR=%s VAULT_TOKEN=%s", t.server.Address, t.token)
	began := time.Now()
	for _, step := range []func() error{t.mount, t.store, t.use, t.again, t.leases, t.policy} {
		if err := step(); err != nil {
			return err
		}
	}
	if err := t.outage(time.Since(began) / time.Duration(t.shown)); err != nil {
		return err
	}
	return t.consent()
}

// firstAct bounds the time of the steps before the outage on a slow machine.
const firstAct = 3 * time.Minute

// awaitHour waits for the next full hour if it would fall into the first act. Kensho's tokens
// expire on the hour, and the first act reads the same token twice.
func (t *tutorial) awaitHour() error {
	left := time.Until(time.Now().Truncate(time.Hour).Add(time.Hour))
	if left > firstAct {
		return nil
	}
	t.say("Kensho's tokens expire on the hour. Waiting %d s until it has passed …", int(left.Seconds()))
	select {
	case <-time.After(left + 2*time.Second):
		return nil
	case <-t.ctx.Done():
		return t.ctx.Err()
	}
}

func (t *tutorial) mount() error {
	t.heading("## 1. Register the plugin and mount it once per vendor")
	binary, err := os.ReadFile(filepath.Join(t.server.PluginDir, t.plugin))
	if err != nil {
		return err
	}
	for _, args := range [][]string{
		{"plugin", "register", fmt.Sprintf("-sha256=%x", sha256.Sum256(binary)), "-command=" + t.plugin, "secret", "tokenbroker"},
		{"secrets", "enable", "-path=kensho", "tokenbroker"},
		{"secrets", "enable", "-path=sitecore", "tokenbroker"},
	} {
		if _, err := t.shell.run(args...); err != nil {
			return err
		}
	}
	return nil
}

func (t *tutorial) store() error {
	t.heading("## 2. Store the credentials: a refresh token, a key pair, an API key")
	t.say("The engine exchanges each one before it stores it, so a wrong credential fails here.\n" +
		"Only simulated vendors need the URLs.")
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	t.vendors.AddRefreshToken("link-streaming", refreshToken)
	t.vendors.AddClient(clientID, &key.PublicKey, "")
	t.vendors.AddAPIKey(apiKey)
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	if err := os.WriteFile(filepath.Join(t.server.Dir(), "kensho.pem"), keyPEM, 0o600); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"write", "kensho/config/kensho/prod", "refresh_token=" + refreshToken,
			"refresh_url=" + vendorsim.URL(t.vendorURL, "https://link-streaming.kensho.com/oauth2/refresh")},
		{"write", "kensho/config/kensho/batch", "client_id=" + clientID, "private_key=@kensho.pem",
			"token_url=" + vendorsim.URL(t.vendorURL, "https://kensho.okta.com/oauth2/default/v1/token")},
		{"write", "sitecore/config/sitecore/prod", "api_key=" + apiKey, "scope=discover,event", "access_expiry=12h",
			"base_url=" + vendorsim.URL(t.vendorURL, "https://api.rfksrv.com")},
		{"list", "-detailed", "kensho/config"},
	} {
		if _, err := t.shell.run(args...); err != nil {
			return err
		}
	}
	t.say("A read never returns the secrets:")
	output, err := t.shell.run("read", "kensho/config/kensho/prod")
	if err == nil && strings.Contains(output, refreshToken) {
		err = fmt.Errorf("the read returned the refresh token")
	}
	return err
}

// paths are the paths at which the three credentials are read.
var paths = []string{"kensho/creds/prod", "kensho/creds/batch", "sitecore/creds/prod"}

func (t *tutorial) use() error {
	t.heading("## 3. Read access tokens")
	t.say("Each lease ends shortly before its token expires.")
	t.tokens = map[string]string{}
	for _, path := range paths {
		output, err := t.shell.run("read", path)
		if err != nil {
			return err
		}
		t.tokens[path] = field(output, "access_token")
		if !t.vendors.Accepts(t.tokens[path]) {
			return fmt.Errorf("the vendor does not accept the token of %s", path)
		}
		if path == paths[0] {
			t.lease = field(output, "lease_id")
		}
	}
	t.say("The simulated vendors accept all three tokens.")
	return nil
}

func (t *tutorial) again() error {
	t.heading("## 4. Read again, without another call to the vendor")
	calls := len(t.vendors.Calls())
	for _, path := range paths {
		output, err := t.shell.run("read", "-field=access_token", path)
		if err != nil {
			return err
		}
		if strings.TrimSpace(output) != t.tokens[path] {
			return fmt.Errorf("%s returned another token", path)
		}
	}
	if now := len(t.vendors.Calls()); now != calls {
		return fmt.Errorf("the vendors were called %d times for cached tokens", now-calls)
	}
	t.say("The tokens are the same. The vendors have received %d calls so far, as many as before\n"+
		"these reads.", calls)
	return nil
}

func (t *tutorial) leases() error {
	t.heading("## 5. List and look up leases, as for any dynamic secret")
	for _, args := range [][]string{
		{"list", "sys/leases/lookup/kensho/creds/prod"},
		{"lease", "lookup", t.lease},
	} {
		if _, err := t.shell.run(args...); err != nil {
			return err
		}
	}
	return nil
}

const policy = `path "kensho/creds/prod" {
  capabilities = ["read"]
}
`

func (t *tutorial) policy() error {
	t.heading("## 6. Allow an application to read one token, and nothing else")
	file := filepath.Join(t.server.Dir(), "app.hcl")
	if err := os.WriteFile(file, []byte(policy), 0o600); err != nil {
		return err
	}
	t.showFile("app.hcl", policy)
	if _, err := t.shell.run("policy", "write", "app", "app.hcl"); err != nil {
		return err
	}
	token, err := t.quiet("token", "create", "-policy=app", "-field=token")
	if err != nil {
		return err
	}
	t.command("APP=$(%s token create -policy=app -field=token)", t.name)
	token = strings.TrimSpace(token)
	if _, err := t.as("APP", token, "read", "kensho/creds/prod"); err != nil {
		return err
	}
	app := *t.shell
	app.token = token
	return app.denied("VAULT_TOKEN=$APP ", "read", "kensho/creds/batch")
}
