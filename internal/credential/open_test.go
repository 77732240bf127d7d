package credential

import (
	"maps"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/oauth2"
)

// counting counts the credentials that are opened.
type counting struct {
	oauth2.Provider
	opened *int
}

func (c counting) Open(s provider.Settings) (provider.Credential, error) {
	*c.opened++
	return c.Provider.Open(s)
}

// A write opens the stored credential, if it is not in memory, and the next one. Each is opened once.
func TestAChangeOpensACredentialOnce(t *testing.T) {
	opened, storage := 0, &logical.InmemStorage{}
	p := counting{opened: &opened}
	start := func() *Store {
		st, _ := New(Options{BuiltIn: func(string) provider.Provider { return p }, Logger: hclog.NewNullLogger}, nil)
		return st
	}
	opens := func(change func() error) int {
		opened = 0
		require.NoError(t, change())
		return opened
	}
	st, unverified := start(), false
	write := func(op Operation, fields map[string]any) func() error {
		return func() error {
			return st.Write(t.Context(), storage, p, "prod", WriteRequest{Operation: op, Fields: fields, Verify: &unverified})
		}
	}
	remove := func() error {
		deletion, err := st.BeginDelete(t.Context(), storage, p.Name(), "prod")
		require.NoError(t, err)
		defer deletion.End()
		return deletion.Delete()
	}

	fields := maps.Clone(before().Fields)
	assert.Equal(t, 1, opens(write(Create, fields)))
	assert.Equal(t, 2, opens(write(Update, map[string]any{"client_id": "b"})), "not in memory")
	st = start()
	assert.Equal(t, 2, opens(write(Update, map[string]any{"scope": nil})), "after a restart")
	assert.Equal(t, 2, opens(write(Update, map[string]any{"description": "x"})), "without an exchange")
	assert.Equal(t, 1, opens(remove), "not in memory")
}
