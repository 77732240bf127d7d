package keypairs_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

func TestAllowedUseIsChangedOnThePathOfTheKeyPair(t *testing.T) {
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
			"the credential loses the key pair":         {map[string]any{"allowed_configs": "other"}, `config/kensho/prod uses the key pair and would stop working: keypair: keypair/prod may not be used by the credential "prod"`},
			"the host of the credential is removed":     {map[string]any{"allowed_hosts": "other.example"}, `config/kensho/prod uses the key pair and would stop working: keypair: keypair/prod signs only for other.example`},
			"the audience of the credential is removed": {map[string]any{"allowed_audiences": "https://other.example"}, "config/kensho/prod uses the key pair"},
			"a URL for a host":                          {map[string]any{"allowed_hosts": "https://kensho.okta.com"}, `allowed_hosts: "https://kensho.okta.com" is not a host; use the form`},
			"a port for a host":                         {map[string]any{"allowed_hosts": ":8443"}, `allowed_hosts: ":8443" is not a host; use the form`},
			"a host of a megabyte":                      {map[string]any{"allowed_hosts": strings.Repeat("a", 1<<20)}, "allowed_hosts: (1048576 characters, not shown) is not a host"},
			"a path for a name":                         {map[string]any{"allowed_configs": "config/kensho/prod"}, "allowed_configs: \"config/kensho/prod\" is not a name"},
			"no certificate":                            {map[string]any{"ca_cert": "ca"}, "ca_cert: "},
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
		assert.NotContains(t, read, "pending_key_id", "no pending pair is created")

		status, message = write(map[string]any{"allowed_hosts": ""})
		require.Equal(t, http.StatusOK, status, message)
		assert.Equal(t, []string{"kensho.okta.com"}, e.Read("keypair/prod").Data["allowed_hosts"], "the hosts of its credential")

		pending := e.Keypair("prod", nil)
		e.Register(engine.ClientID, pending.Data["pending_public_key"])
		status, message = e.Activate(nil)
		require.Equal(t, http.StatusOK, status, message)
		e.Restart()
		read = e.Read("keypair/prod").Data
		assert.Equal(t, []string{"other", "prod"}, read["allowed_configs"], "an activation keeps the allowed use")
		assert.Equal(t, []string{"kensho.okta.com"}, read["allowed_hosts"])
		engine.Until(2, 0, 0)
		e.Creds("prod")
	})
}
