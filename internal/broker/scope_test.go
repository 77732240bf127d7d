package broker

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/provider"
)

func TestGuarantee14GrantedScopeIsComparedWithTheRequestedScope(t *testing.T) {
	const lacks, more = "the vendor did not grant all of the role's scope: this token lacks ", "the vendor granted scopes that it was not asked for: "
	for name, row := range map[string]struct {
		granted      []string
		scope, whole string
		excess       string // the scopes beyond the request
		warnings     []string
	}{
		"as requested":                         {[]string{"read"}, "read", "read write", "", nil},
		"in another order":                     {[]string{"list", "read"}, "read list", "list read write", "", nil},
		"not stated":                           {nil, "read", "read write", "", nil},
		"more, which the credential has":       {[]string{"read", "write"}, "read", "read write", "write", []string{more + "write"}},
		"all that the credential has":          {[]string{"admin", "read", "write"}, "read", "admin read write", "admin write", []string{more + "admin write"}},
		"other, which the credential has":      {[]string{"write"}, "read", "read write", "write", []string{lacks + "read", more + "write"}},
		"more, which the credential lacks":     {[]string{"read", "profile"}, "read", "read write", "", []string{more + "profile"}},
		"more, credential scope unknown":       {[]string{"read", "write"}, "read", "", "write", []string{more + "write"}},
		"profile, credential scope unknown":    {[]string{"profile", "read"}, "read", "", "profile", []string{more + "profile"}},
		"less, credential scope unknown":       {[]string{"read"}, "list read", "", "", []string{lacks + "list"}},
		"less":                                 {[]string{"read"}, "list read", "list read write", "", []string{lacks + "list"}},
		"a scope with the same prefix":         {[]string{"read", "write:all"}, "read", "read write", "", []string{more + "write:all"}},
		"the credential's own scope, narrowed": {[]string{"read"}, ownScope, "read write", "", nil},
		"the credential's own scope, widened":  {[]string{"read", "write", "more"}, ownScope, "read write", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			token := provider.Token{Scope: row.granted}
			failure := (&Credential{Scope: row.whole}).checkNotWidened(&State{}, token, row.scope)
			if row.excess == "" {
				assert.Nil(t, failure)
			} else if assert.NotNil(t, failure) {
				assert.Equal(t, provider.Rejected, failure.Kind)
				assert.True(t, failure.MayBeScope, "the credential may be valid")
				assert.True(t, failure.Widened)
				assert.Contains(t, failure.Reason, "the vendor granted "+row.excess+" as well")
			}
			assert.Equal(t, row.warnings, scopeWarnings(token, row.scope))
		})
	}
}
