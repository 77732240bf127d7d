package credential

import (
	"encoding/json"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider/oauth2"
)

// before returns a stored credential.
func before() *storedCredential {
	fields := map[string]any{
		"token_url": "https://id.example.com/token", "client_id": "a", "client_secret": "top",
		"scope": []any{"read"}, "token_params": map[string]any{"tenant": "t", "audience": "b"}, "max_ttl": json.Number("60"),
	}
	entry := &Entry{Generation: "g", WriteTime: time.Now().Add(-time.Hour), Fields: fields}
	return &storedCredential{Entry: entry, vendor: oauth2.Provider{}, name: "prod", generation: "g"}
}

func TestAWriteChangesTheFieldsThatItNames(t *testing.T) {
	for name, c := range map[string]struct {
		op     Operation
		fields map[string]any
		want   map[string]any // of the fields that change; nil is gone
	}{
		"nothing":                      {Update, nil, nil},
		"a field":                      {Update, map[string]any{"client_id": "b"}, map[string]any{"client_id": "b"}},
		"a field is cleared":           {Update, map[string]any{"max_ttl": nil}, map[string]any{"max_ttl": nil}},
		"a list is replaced":           {Patch, map[string]any{"scope": []any{"write"}}, map[string]any{"scope": []any{"write"}}},
		"a map is replaced":            {Update, map[string]any{"token_params": map[string]any{"x": "y"}}, map[string]any{"token_params": map[string]any{"x": "y"}}},
		"a map is merged in a patch":   {Patch, map[string]any{"token_params": map[string]any{"x": "y", "tenant": nil}}, map[string]any{"token_params": map[string]any{"audience": "b", "x": "y"}}},
		"a map is emptied in a patch":  {Patch, map[string]any{"token_params": map[string]any{"audience": nil, "tenant": nil}}, map[string]any{"token_params": nil}},
		"a map is cleared in a patch":  {Patch, map[string]any{"token_params": nil}, map[string]any{"token_params": nil}},
		"a map that was not there yet": {Patch, map[string]any{"preset_params": map[string]any{"x": "y", "z": nil}}, map[string]any{"preset_params": map[string]any{"x": "y"}}},
	} {
		t.Run(name, func(t *testing.T) {
			old := before()
			want := maps.Clone(old.Fields)
			maps.Copy(want, c.want)
			maps.DeleteFunc(want, func(_ string, value any) bool { return value == nil })
			asItWas := before().Fields

			next, err := Write{Operation: c.op, Fields: c.fields}.apply(oauth2.Provider{}, "prod", old)
			require.NoError(t, err)
			assert.Equal(t, want, next.Fields)
			assert.Equal(t, asItWas, old.Fields, "what is stored is not changed")
			assert.NotEqual(t, "g", next.Generation)
		})
	}
}

func TestOnlyANewSecretChangesTheTimeOfTheWrite(t *testing.T) {
	for name, c := range map[string]struct {
		fields map[string]any
		isNew  bool
	}{
		"another secret":      {map[string]any{"client_secret": "other"}, true},
		"the same secret":     {map[string]any{"client_secret": "top"}, false},
		"a cleared secret":    {map[string]any{"client_secret": nil}, false},
		"a setting":           {map[string]any{"description": "x"}, false},
		"a generated key":     {map[string]any{"private_key_source": "generated"}, true},
		"a key pair by name":  {map[string]any{"private_key_source": "generated", "keypair": "k"}, true},
		"a key pair's name":   {map[string]any{"keypair": "k"}, false},
		"no secret, no field": {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				old := before()
				next, err := Write{Operation: Update, Fields: c.fields}.apply(oauth2.Provider{}, "prod", old)
				require.NoError(t, err)
				if c.isNew {
					assert.True(t, next.WriteTime.Equal(time.Now()))
				} else {
					assert.Equal(t, old.WriteTime, next.WriteTime)
				}
			})
		})
	}
}

// The vendor is not asked about a write that changes no exchange.
func TestWhichWritesAreOfSettingsOnly(t *testing.T) {
	yes, no := true, false
	settings := map[string]any{"description": "x", "expires": "2027-05-01", "request_timeout": json.Number("20"), "keepalive_interval": nil}
	for name, c := range map[string]struct {
		fields map[string]any
		verify *bool
		want   bool
	}{
		"all of them":              {settings, nil, true},
		"unverified":               {settings, &no, true},
		"verified on request":      {settings, &yes, false},
		"nothing":                  {nil, nil, false},
		"the lifetime of a token":  {map[string]any{"description": "x", "max_ttl": json.Number("60")}, nil, false},
		"the authorities to trust": {map[string]any{"ca_cert": "x"}, nil, false},
	} {
		assert.Equal(t, c.want, Write{Fields: c.fields, Verify: c.verify}.onlySettings(), name)
	}
}
