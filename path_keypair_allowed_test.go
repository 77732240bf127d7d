package tokenbroker_test

import (
	"maps"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestGuarantee17AKeyPairSignsOnlyForTheCredentialsThatItWasGivenTo(t *testing.T) {
	theft := map[string]any{
		"client_id": "prod-client", "private_key_source": "generated", "keypair": "prod",
		"token_url": "https://own.example/token",
	}
	type use struct {
		keypair map[string]any
		path    string
		change  map[string]any
		says    string // "" if it is allowed
	}
	uses := map[string]use{
		"another name":                       {nil, "config/oauth2/teamb", map[string]any{"assertion_audience": "https://vendor.example"}, `keypair: keypair/prod may not be used by the credential "teamb"; add it to allowed_configs of keypair/prod`},
		"another name at Kensho":             {nil, "config/kensho/teamb", nil, `keypair: keypair/prod may not be used by the credential "teamb"`},
		"its own name":                       {nil, "config/oauth2/prod", nil, ""},
		"its own name, given to another":     {map[string]any{"allowed_configs": "teamb"}, "config/oauth2/prod", nil, `keypair: keypair/prod may not be used by the credential "prod"`},
		"one of two that it was given to":    {map[string]any{"allowed_configs": "prod,teamb"}, "config/oauth2/teamb", nil, ""},
		"none of two that it was given to":   {map[string]any{"allowed_configs": "prod,teamb"}, "config/oauth2/teamc", nil, `keypair: keypair/prod may not be used by the credential "teamc"`},
		"another host":                       {map[string]any{"allowed_hosts": "vendor.example"}, "config/oauth2/prod", nil, `keypair: keypair/prod signs only for vendor.example, not for "own.example"; add the host to allowed_hosts`},
		"another port":                       {map[string]any{"allowed_hosts": "own.example:8443"}, "config/oauth2/prod", nil, `not for "own.example"`},
		"the host":                           {map[string]any{"allowed_hosts": "Own.Example:443"}, "config/oauth2/prod", nil, ""},
		"another host to revoke at":          {map[string]any{"allowed_hosts": "own.example"}, "config/oauth2/prod", map[string]any{"revocation_url": "https://r.example"}, `not for "r.example"`},
		"an issuer on another host":          {map[string]any{"allowed_hosts": "own.example"}, "config/oauth2/prod", map[string]any{"token_url": "", "issuer": "https://i.example"}, `not for "i.example"`},
		"an issuer on the host":              {map[string]any{"allowed_hosts": "own.example"}, "config/oauth2/prod", map[string]any{"token_url": "", "issuer": "https://own.example/realm"}, ""},
		"another audience":                   {map[string]any{"allowed_audiences": "https://vendor.example"}, "config/oauth2/prod", nil, `keypair: keypair/prod does not sign for the audience "https://own.example/token"; add it to allowed_audiences`},
		"another audience, by name":          {map[string]any{"allowed_audiences": "https://own.example/token"}, "config/oauth2/prod", map[string]any{"assertion_audience": "https://vendor.example"}, `does not sign for the audience "https://vendor.example"`},
		"the audience":                       {map[string]any{"allowed_audiences": "https://vendor.example"}, "config/oauth2/prod", map[string]any{"assertion_audience": "https://vendor.example"}, ""},
		"an audience that nobody knows":      {map[string]any{"allowed_audiences": "https://own.example"}, "config/oauth2/prod", map[string]any{"token_url": "", "issuer": "https://own.example"}, "assertion_audience: must be set, as keypair/prod has allowed_audiences"},
		"an authority that is not named":     {map[string]any{"allowed_hosts": "own.example"}, "config/oauth2/prod", map[string]any{"ca_cert": engine.ACertificate}, "ca_cert: contains a certificate that is not in the ca_cert of keypair/prod"},
		"an authority of two that are named": {map[string]any{"allowed_hosts": "own.example", "ca_cert": engine.ACertificate + engine.OtherCertificate}, "config/oauth2/prod", map[string]any{"ca_cert": engine.OtherCertificate}, ""},
	}
	for form, reformatted := range engine.PastedForms {
		const refused = "ca_cert: contains a certificate that is not in the ca_cert of keypair/prod"
		own, hosts := reformatted(engine.ACertificate), map[string]any{"allowed_hosts": "own.example"}
		uses["an authority that is not named, "+form] = use{hosts, "config/oauth2/prod", map[string]any{"ca_cert": own}, refused}
		uses["one that is named and one more, "+form] = use{engine.With(hosts, "ca_cert", engine.OtherCertificate), "config/oauth2/prod", map[string]any{"ca_cert": engine.OtherCertificate + own}, refused}
		uses["an authority that is named, "+form] = use{engine.With(hosts, "ca_cert", own), "config/oauth2/prod", map[string]any{"ca_cert": engine.ACertificate}, ""}
		uses["an authority by its file's text, "+form] = use{engine.With(hosts, "ca_cert", engine.ACertificate), "config/oauth2/prod", map[string]any{"ca_cert": own}, ""}
	}
	for name, test := range uses {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				e.Keypair("prod", test.keypair)
				before, data := e.Dump(), engine.With(theft, "verify", false)
				maps.Copy(data, test.change)
				_, status, message := e.Request(logical.UpdateOperation, test.path, data)
				if test.says == "" {
					assert.Equal(t, http.StatusOK, status, message)
					return
				}
				assert.Equal(t, http.StatusBadRequest, status)
				assert.Contains(t, message, test.says)
				delete(data, "verify")
				_, status, _ = e.Request(logical.UpdateOperation, test.path, data)
				assert.Equal(t, http.StatusBadRequest, status)
				assert.Zero(t, e.Exchanges(), "nothing is signed")
				assert.Equal(t, before, e.Dump(), "nothing is stored")
			})
		})
	}
}

// Whoever may write a credential's path, but not its key pair's, cannot have its key sign
// for another host: not by a change, nor by deleting the credential and writing it again.
func TestGuarantee13WhatAGeneratedKeySignsGoesOnlyToTheFirstCredentialsHosts(t *testing.T) {
	changes := map[string]map[string]any{
		"another host":      {"token_url": "https://elsewhere.example/token", "assertion_audience": vendorsim.OAuthTokenURL},
		"an issuer":         {"token_url": "", "issuer": "https://elsewhere.example"},
		"another revoker":   {"revocation_url": "https://elsewhere.example/revoke"},
		"another authority": {"ca_cert": engine.ACertificate},
	}
	for form, reformatted := range engine.PastedForms {
		changes["another authority, "+form] = map[string]any{"ca_cert": reformatted(engine.ACertificate)}
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.New(t)
				e.Keypair("prod", nil)
				fields := map[string]any{"client_id": "id", "private_key_source": "generated", "token_url": vendorsim.OAuthTokenURL, "verify": false}
				e.Write("config/oauth2/prod", fields)
				assert.Equal(t, []string{"auth.example.com"}, e.Read("keypair/prod").Data["allowed_hosts"])
				stolen := maps.Clone(fields)
				maps.Copy(stolen, change)
				delete(stolen, "verify")

				refused := func(op logical.Operation, data map[string]any) {
					_, status, message := e.Request(op, "config/oauth2/prod", data)
					assert.Equal(t, http.StatusBadRequest, status)
					assert.Contains(t, message, "keypair/prod")
					assert.Zero(t, e.Exchanges(), "nothing is signed")
				}
				refused(logical.UpdateOperation, change)
				refused(logical.PatchOperation, change)
				_, status, message := e.Request(logical.DeleteOperation, "config/oauth2/prod", nil)
				require.Equal(t, http.StatusOK, status, message)
				refused(logical.UpdateOperation, stolen)
			})
		})
	}
}

func TestWhatAKeyPairMaySignForIsChangedOnItsOwnPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewGenerated(t)
		key := e.Read("keypair/prod").Data["key_id"]
		write := func(data map[string]any) (int, string) {
			_, status, message := e.Request(logical.UpdateOperation, "keypair/prod", data)
			return status, message
		}
		for name, bad := range map[string]struct {
			data map[string]any
			says string
		}{
			"it is taken from its user": {map[string]any{"allowed_configs": "other"}, `config/kensho/prod uses the key pair and would stop working: keypair: keypair/prod may not be used by the credential "prod"`},
			"its user's host goes":      {map[string]any{"allowed_hosts": "other.example"}, `config/kensho/prod uses the key pair and would stop working: keypair: keypair/prod signs only for other.example`},
			"its user's audience goes":  {map[string]any{"allowed_audiences": "https://other.example"}, "config/kensho/prod uses the key pair"},
			"a URL for a host":          {map[string]any{"allowed_hosts": "https://kensho.okta.com"}, `allowed_hosts: "https://kensho.okta.com" is not a host; use the form`},
			"a port for a host":         {map[string]any{"allowed_hosts": ":8443"}, `allowed_hosts: ":8443" is not a host; use the form`},
			"a host of a megabyte":      {map[string]any{"allowed_hosts": strings.Repeat("a", 1<<20)}, "allowed_hosts: (1048576 characters, not shown) is not a host"},
			"a path for a name":         {map[string]any{"allowed_configs": "config/kensho/prod"}, "allowed_configs: \"config/kensho/prod\" is not a name"},
			"no certificate":            {map[string]any{"ca_cert": "ca"}, "ca_cert: "},
		} {
			status, message := write(bad.data)
			assert.Equal(t, http.StatusBadRequest, status, name)
			assert.Contains(t, message, bad.says, name)
		}
		status, message := write(map[string]any{"allowed_configs": "prod,other", "allowed_hosts": "kensho.okta.com,proxy.example", "allowed_audiences": "", "ca_cert": engine.ACertificate})
		require.Equal(t, http.StatusOK, status, message)
		read := e.Read("keypair/prod").Data
		assert.Equal(t, []string{"other", "prod"}, read["allowed_configs"])
		assert.Equal(t, []string{"kensho.okta.com", "proxy.example"}, read["allowed_hosts"])
		assert.Equal(t, key, read["key_id"])
		assert.NotContains(t, read, "pending_key_id", "no pair is made")

		status, message = write(map[string]any{"allowed_hosts": ""})
		require.Equal(t, http.StatusOK, status, message)
		assert.Equal(t, []string{"kensho.okta.com"}, e.Read("keypair/prod").Data["allowed_hosts"], "those of its user")

		pending := e.Keypair("prod", nil)
		e.Register(engine.ClientID, pending.Data["pending_public_key"])
		status, message = e.Activate(nil)
		require.Equal(t, http.StatusOK, status, message)
		e.Restart()
		read = e.Read("keypair/prod").Data
		assert.Equal(t, []string{"other", "prod"}, read["allowed_configs"], "an activation keeps it")
		assert.Equal(t, []string{"kensho.okta.com"}, read["allowed_hosts"])
		engine.Until(2, 0, 0)
		e.Creds("prod")
	})
}
