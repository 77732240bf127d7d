package input_test

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/pem"
	"maps"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

// validWrites maps each path to the fields of a valid write.
var validWrites = map[string]map[string]any{
	"config/kensho/new":    {"refresh_token": "first"},
	"config/sitecore/new":  {"api_key": "01-first"},
	"config/oauth2/new":    {"token_url": "https://id.example/token", "client_id": "id", "client_secret": "s"},
	"config/oauth2/api":    {"client_secret": "api-secret"},
	"roles/new":            {"config": "api"},
	"keypair/new":          {},
	"keypair/new/activate": {},
	"refresh/api":          {},
	"creds/api":            {},
	"config/zoom/meetings": {"account_id": "abc", "client_id": "id", "client_secret": "s"},
}

// Vault's audit log holds the text of errors unhashed.
func TestASecretInAWrongFieldIsNotQuoted(t *testing.T) {
	key := make([]byte, 300)
	_, err := rand.Read(key)
	require.NoError(t, err)
	file := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	secrets := map[string]string{
		"a PEM file":         file,
		"a PEM on one line":  strings.ReplaceAll(file, "\n", `\n`),
		"the key in base64":  base64.StdEncoding.EncodeToString([]byte(strings.Repeat("secret", 40))),
		"a JWT":              "eyJhbGciOiJSUzI1NiJ9." + strings.Repeat("eyJpc3MiOiJz", 10) + ".c2lnbmF0dXJl",
		"a token of letters": strings.Repeat("qwertzuiop", 5),
		"two short lines":    "first-secret\nother-secret",
	}
	for kind, secret := range secrets {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewOAuth(t)
				for path, valid := range validWrites {
					op := logical.Operation(logical.UpdateOperation)
					if strings.HasPrefix(path, "creds/") {
						op = logical.ReadOperation
					}
					send := func(field string, value any) {
						data := maps.Clone(valid)
						data[field] = value
						if strings.HasPrefix(path, "config/") {
							data["verify"] = false
						}
						_, status, message := e.Request(op, path, data)
						for _, part := range []string{secret[:min(len(secret), 60)], secret[:12], secret[len(secret)-12:], secret[len(secret)/2:][:12]} {
							assert.NotContains(t, message, part, "%s %s: %d", path, field[:min(len(field), 30)], status)
						}
					}
					for field, schema := range e.Fields(path) {
						isSecret := schema.DisplayAttrs != nil && schema.DisplayAttrs.Sensitive
						if field == "name" || field == "vendor" || field == "verify" || isSecret {
							continue
						}
						for _, value := range []any{secret, []any{secret}, secret + "=x", "a=" + secret, map[string]any{secret: "x"}, map[string]any{secret: 7}, map[string]any{"account_id": secret}, `{"` + secret + `": "x"}`, "https://id.example/?token=" + secret} {
							send(field, value)
						}
					}
					send(secret, "x")
				}
			})
		})
	}
}

func TestAnUnknownFieldIsNamedOnlyIfItLooksLikeAField(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		for field, says := range map[string]string{
			"scop":                        `unknown field "scop"; did you mean scope? (allowed: `,
			"Client-ID":                   "unknown field [name of 9 characters, not shown] (allowed: ",
			"Min-TTL":                     "unknown field [name of 7 characters, not shown]; did you mean min_ttl? (allowed: ",
			"-format":                     "-format is an option of the vault command; give it before the path",
			"-" + strings.Repeat("a", 41): "unknown field [name of 42 characters, not shown] (allowed: ",
			"c2VjcmV0":                    "unknown field [name of 8 characters, not shown]",
			"abcdefghijklmnopqrstuvwxyz_abcdefghijklmn": "unknown field [name of 41 characters, not shown]",
		} {
			_, status, message := e.Request(logical.UpdateOperation, "roles/new", map[string]any{"config": "api", field: "x"})
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, message, says)
		}
	})
}
