package tokenbroker_test

import (
	"bytes"
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	tokenbroker "vault-plugin-secrets-tokenbroker"
	"vault-plugin-secrets-tokenbroker/internal/apidoc"
	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/provider/catalogue"
	"vault-plugin-secrets-tokenbroker/provider/definition"
)

var writeDocs = flag.Bool("write-docs", false, "write the generated parts of docs/ instead of comparing them")

const (
	apiReference    = "docs/api.md"
	cataloguePage   = "docs/vendors.md"
	definitionsPage = "docs/definitions.md"
)

func paths() []*framework.Path {
	return tokenbroker.DocumentedPaths(tokenbroker.New(tokenbroker.Options{}))
}

func TestTheAPIReferenceIsCurrent(t *testing.T) {
	var reference bytes.Buffer
	require.NoError(t, apidoc.Write(&reference, paths(), exampleAnswers(t)))
	requireGenerated(t, apiReference, reference.Bytes())
}

func TestTheCataloguePageIsCurrent(t *testing.T) {
	var vendors []*definition.Provider
	for _, name := range catalogue.Names() {
		vendors = append(vendors, catalogue.Lookup(name))
	}
	var page bytes.Buffer
	require.NoError(t, apidoc.WriteCatalogue(&page, vendors))
	requireGenerated(t, cataloguePage, page.Bytes())
}

func TestTheReferenceOfDefinitionsIsCurrent(t *testing.T) {
	var page bytes.Buffer
	require.NoError(t, apidoc.WriteDefinitions(&page))
	requireGenerated(t, definitionsPage, page.Bytes())
}

// exampleDefinition matches a definition in a page.
var exampleDefinition = regexp.MustCompile("(?s)```json\n(\\{\n  \"title\".*?)```")

func TestTheDefinitionsInTheReferenceAreValid(t *testing.T) {
	page, err := os.ReadFile(definitionsPage)
	require.NoError(t, err)
	found := exampleDefinition.FindAllSubmatch(page, -1)
	require.NotEmpty(t, found)
	for _, match := range found {
		_, err := definition.Parse("acme", match[1])
		require.NoError(t, err, string(match[1]))
	}
}

// requireGenerated compares a page with its generated form, or writes it with -write-docs.
func requireGenerated(t *testing.T, path string, made []byte) {
	t.Helper()
	if *writeDocs {
		require.NoError(t, os.WriteFile(path, made, 0o644))
		return
	}
	written, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(made), string(written), "%s is stale: run `make docs`", path)
}

func TestEveryPathHasCompleteHelp(t *testing.T) {
	e := engine.New(t)
	for _, path := range paths() {
		name := strings.NewReplacer("<name>", "prod", "<vendor>", "acme", "<host>", "link-streaming.kensho.com").Replace(apidoc.Name(path))
		resp, err := e.Backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.HelpOperation, Path: name})
		require.NoError(t, err)
		help := resp.Data["help"].(string)
		assert.Contains(t, help, path.HelpSynopsis, name)
		assert.True(t, strings.HasSuffix(path.HelpSynopsis, "."), "%s: the synopsis is a sentence", name)
		assert.Greater(t, len(strings.Fields(path.HelpDescription)), 5, "%s: the description is more than a few words", name)
		for field, schema := range path.Fields {
			assert.Contains(t, help, field, name)
			assert.Contains(t, help, schema.Description, name)
			assert.True(t, strings.HasSuffix(schema.Description, "."), "%s: the description of %s is a sentence", name, field)
		}
	}
}

func TestHelpShowsAllowedValuesDefaultsAndAnExample(t *testing.T) {
	e := engine.New(t)
	help := func(path string) string {
		resp, err := e.Backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.HelpOperation, Path: path})
		require.NoError(t, err)
		return resp.Data["help"].(string)
	}
	kensho := help("config/kensho/prod")
	assert.Contains(t, kensho, "Allowed: link, scribe, nerd, classify, extract, kfinance, caterpillar. Default: link.")
	assert.Contains(t, kensho, "Timeout of one request to the vendor, from 1s to 1m. Default: 10s.")
	assert.Contains(t, kensho, "How often to exchange a credential that expires when unused, even without reads. Default: 24h, or", "the text has a default of its own")
	assert.Contains(t, kensho, "Example:\n\n    $ vault write kensho/config/kensho/prod refresh_token=...\n    $ vault read kensho/config/kensho/prod")
	assert.Contains(t, help("config/oauth2/prod"), "Allowed: client_secret_basic, ")
	assert.Contains(t, help("keypair/prod"), "Allowed: rsa-2048, ")
}

func TestEveryPathOperationAndFieldHasDisplayAttributes(t *testing.T) {
	ids := map[string]string{}
	for _, path := range tokenbroker.Paths(tokenbroker.New(tokenbroker.Options{})) {
		name := apidoc.Name(path)
		require.NotNil(t, path.DisplayAttrs, name)
		assert.Equal(t, "token-broker", path.DisplayAttrs.OperationPrefix, name)
		for field, schema := range path.Fields {
			require.NotNil(t, schema.DisplayAttrs, "%s: %s", name, field)
			assert.NotEmpty(t, schema.DisplayAttrs.Name, "%s: %s", name, field)
		}
		for operation, handler := range path.Operations {
			properties := handler.Properties()
			assert.NotEmpty(t, properties.Summary, "%s: %s", name, operation)
			attrs := *path.DisplayAttrs
			if properties.DisplayAttrs != nil {
				attrs = *properties.DisplayAttrs
			}
			assert.NotEmpty(t, attrs.OperationSuffix, "%s: %s", name, operation)
			if operation == logical.CreateOperation {
				continue // shares the operation ID of the update
			}
			id := string(operation) + " " + attrs.OperationVerb + " " + attrs.OperationSuffix
			assert.Empty(t, ids[id], "%s has the operation ID of %s", name, ids[id])
			ids[id] = name
			if operation == logical.ReadOperation || name == "refresh/<name>" {
				require.NotEmpty(t, properties.Responses[200], "%s: %s", name, operation)
				for field, schema := range properties.Responses[200][0].Fields {
					assert.True(t, strings.HasSuffix(schema.Description, "."), "%s: the description of response field %s is a sentence", name, field)
				}
			}
		}
	}
}
