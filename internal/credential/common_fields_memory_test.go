package credential

import (
	"runtime"
	"testing"
	"weak"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider/definition"
)

// Each preview, and each change of a definition, has a provider of its own.
func TestFieldsOfADefinitionTakeNoMemoryAfterIt(t *testing.T) {
	last := func() weak.Pointer[definition.Provider] {
		d, err := definition.Parse("acme", []byte(`{"title": "Acme", "fields": {"api_key": {}}, "token_url": "https://acme.example/",
			"grants": [{"grant_type": "api_key", "request": {"form": {"key": "{api_key}"}}}]}`))
		require.NoError(t, err)
		p := definition.NewProvider(d)
		assert.Contains(t, FieldSchemas(p), "api_key")
		assert.Contains(t, FieldSchemas(p), "description")
		return weak.Make(p)
	}()
	runtime.GC()
	assert.Nil(t, last.Value())
}
