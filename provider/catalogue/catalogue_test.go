package catalogue_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider/catalogue"
)

func TestEachVendorCanBeLookedUp(t *testing.T) {
	names := catalogue.Names()
	assert.Greater(t, len(names), 100)
	assert.IsIncreasing(t, names)
	for _, name := range names {
		_, err := catalogue.Read(name)
		require.NoError(t, err)
		p := catalogue.Lookup(name)
		assert.Equal(t, name, p.Name())
		assert.Same(t, p, catalogue.Lookup(name), "a vendor is parsed once")
	}
	for _, name := range []string{"", "acme", "../vendors/entra", "Entra", "entra.json"} {
		assert.Nil(t, catalogue.Lookup(name), name)
	}
}

func TestAVendorIsFoundByWhatPeopleCallIt(t *testing.T) {
	for name, want := range map[string]string{
		"entra": "entra", "Azure-AD": "entra", "Microsoft Entra ID": "entra", "github_app": "github-app", "SNOWFLAKE": "snowflake",
	} {
		require.NotNil(t, catalogue.Find(name), name)
		assert.Equal(t, want, catalogue.Find(name).Name())
	}
	assert.Nil(t, catalogue.Find("acme"))
	assert.Nil(t, catalogue.Find(""))
}
