package credential

import (
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/oauth2"
)

// gone is a vendor that a later version of the engine does not have any more.
type gone struct{ oauth2.Provider }

func (gone) Name() string { return "gone" }

func TestGuarantee15AVendorThatIsGoneDoesNotHarmOthers(t *testing.T) {
	storage, unverified := &logical.InmemStorage{}, false
	start := func(vendors ...provider.Provider) *Store {
		st, _ := New(Options{Logger: hclog.NewNullLogger, BuiltIn: func(name string) provider.Provider {
			for _, p := range vendors {
				if p.Name() == name {
					return p
				}
			}
			return nil
		}}, nil)
		return st
	}
	fields := func() map[string]any {
		return map[string]any{"token_url": "https://id.example/token", "client_id": "id", "client_secret": "s"}
	}
	st := start(gone{}, oauth2.Provider{})
	for name, p := range map[string]provider.Provider{"prod": oauth2.Provider{}, "old": gone{}} {
		require.NoError(t, st.Write(t.Context(), storage, p, name, WriteRequest{Operation: Create, Fields: fields(), Verify: &unverified}))
	}

	st = start(oauth2.Provider{})
	c, err := st.Credential(t.Context(), storage, "prod")
	require.NoError(t, err)
	assert.Equal(t, "prod", c.Name)
	_, err = st.Credential(t.Context(), storage, "old")
	require.ErrorContains(t, err, `no vendor named "gone"; write its definition to vendors/gone, or delete its credentials`)
	_, err = st.WriteKeypair(t.Context(), storage, "signing", KeypairRequest{})
	require.NoError(t, err, "a credential of the vendor does not use the key pair")

	deletion, err := st.BeginDelete(t.Context(), storage, "gone", "old")
	require.NoError(t, err)
	require.NoError(t, deletion.Delete())
	deletion.End()
	c, err = st.Credential(t.Context(), storage, "old")
	require.NoError(t, err)
	assert.Nil(t, c)
}
