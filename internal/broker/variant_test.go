package broker

import (
	"context"
	"fmt"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider"
)

// narrowable is a source of a credential that any field narrows.
type narrowable struct{}

func (narrowable) Names(context.Context, logical.Storage) ([]string, error) { return nil, nil }
func (narrowable) Logger() hclog.Logger                                     { return hclog.NewNullLogger() }
func (narrowable) Credential(_ context.Context, _ logical.Storage, name string) (*Credential, error) {
	return &Credential{
		Name: name, VendorName: "prompt", Generation: "one", Vendor: instantVendor{}, MaxVariants: 1,
		WithFields: func(map[string]any) (provider.Credential, error) { return instantVendor{}, nil },
	}, nil
}

// Guarantee 11: values that readers may not have do not fill the memory.
func TestGuarantee11RefusedValuesAreNotKeptInMemory(t *testing.T) {
	b, storage := New(narrowable{}, ignoreExchanges{}), &logical.InmemStorage{}
	for i := range 20 {
		key := provider.Narrowing{Fields: map[string]any{"audience": fmt.Sprint(i)}}.Key()
		_, err := b.Read(t.Context(), storage, "api", ReadRequest{Scope: key, IsChosen: true})
		var many *TooManyVariantsError
		if i == 0 {
			require.NoError(t, err)
		} else {
			require.ErrorAs(t, err, &many)
		}
	}
	assert.Len(t, b.cached("api").uses, 1)
}
