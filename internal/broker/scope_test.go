package broker

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/provider"
)

func TestGuarantee14WhatAVendorGrantedIsComparedWithWhatItWasAskedFor(t *testing.T) {
	const lacks, more = "the vendor did not grant all of the role's scope: this token lacks ", "the vendor granted scopes that it was not asked for: "
	for name, row := range map[string]struct {
		granted      []string
		scope, whole string
		refused      string // what of it is too much
		warnings     []string
	}{
		"what was asked for":                   {[]string{"read"}, "read", "read write", "", nil},
		"in another order":                     {[]string{"list", "read"}, "read list", "list read write", "", nil},
		"nothing said":                         {nil, "read", "read write", "", nil},
		"more, which the credential has":       {[]string{"read", "write"}, "read", "read write", "write", []string{more + "write"}},
		"all, which the credential has":        {[]string{"admin", "read", "write"}, "read", "admin read write", "admin write", []string{more + "admin write"}},
		"other, which the credential has":      {[]string{"write"}, "read", "read write", "write", []string{lacks + "read", more + "write"}},
		"more, which nobody has":               {[]string{"read", "profile"}, "read", "read write", "", []string{more + "profile"}},
		"more, and only the vendor knows":      {[]string{"read", "write"}, "read", "", "write", []string{more + "write"}},
		"profile, and only the vendor knows":   {[]string{"profile", "read"}, "read", "", "profile", []string{more + "profile"}},
		"less, and only the vendor knows":      {[]string{"read"}, "list read", "", "", []string{lacks + "list"}},
		"less":                                 {[]string{"read"}, "list read", "list read write", "", []string{lacks + "list"}},
		"a part of a name is not the name":     {[]string{"read", "write:all"}, "read", "read write", "", []string{more + "write:all"}},
		"the credential's own scope, narrowed": {[]string{"read"}, ownScope, "read write", "", nil},
		"the credential's own scope, widened":  {[]string{"read", "write", "more"}, ownScope, "read write", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			token := provider.Token{Scope: row.granted}
			refusal := (&Credential{Scope: row.whole}).checkNotWidened(&State{}, token, row.scope)
			if row.refused == "" {
				assert.Nil(t, refusal)
			} else if assert.NotNil(t, refusal) {
				assert.Equal(t, provider.Rejected, refusal.Kind)
				assert.True(t, refusal.MayBeScope, "it says nothing of the credential")
				assert.True(t, refusal.Widened)
				assert.Contains(t, refusal.Reason, "the vendor granted "+row.refused+" as well")
			}
			assert.Equal(t, row.warnings, scopeWarnings(token, row.scope))
		})
	}
}
