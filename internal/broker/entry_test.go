package broker

import (
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestNothingIsNoEntry(t *testing.T) {
	for name, nothing := range map[string]any{"nil": nil, "a nil pointer": (*State)(nil), "what has no JSON": func() {}} {
		t.Run(name, func(t *testing.T) {
			storage := &logical.InmemStorage{}
			var fault *StorageError
			require.ErrorAs(t, PutEntry(t.Context(), storage, "state/prod", nothing), &fault)
			keys, err := storage.List(t.Context(), "")
			require.NoError(t, err)
			assert.Empty(t, keys)
		})
	}
}
