package credential

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/provider"
)

// signing is a credential whose key signs for subjects.
type signing struct {
	provider.Credential
	subjects []provider.Subject
}

func (s signing) Destinations() provider.Destinations {
	return provider.Destinations{Subjects: s.subjects}
}

func TestGuarantee17AnUnknownIssuerMayBeTheKeyPairs(t *testing.T) {
	const issuer = "https://vault.example.com/v1/tokens/jwks/prod"
	c := before()
	for name, test := range map[string]struct {
		key      signingKey
		subjects []provider.Subject
		isOK     bool
	}{
		"no key pair":                      {signingKey{issuedBy: issuer}, []provider.Subject{{Issuer: issuer, Subject: "x"}}, true},
		"no issuer":                        {signingKey{pair: &Pair{}}, []provider.Subject{{Issuer: issuer, Subject: "x"}, {}}, true},
		"the path of the credential":       {signingKey{pair: &Pair{}, issuedBy: issuer}, []provider.Subject{{Issuer: issuer, Subject: c.path()}}, true},
		"a claim that is known later":      {signingKey{pair: &Pair{}, issuedBy: issuer}, []provider.Subject{{Subject: "x"}}, false},
		"a subject that is known later":    {signingKey{pair: &Pair{}, issuedBy: issuer}, []provider.Subject{{Issuer: issuer}}, false},
		"the second of two assertions":     {signingKey{pair: &Pair{}, issuedBy: issuer}, []provider.Subject{{Issuer: "app", Subject: "app"}, {Issuer: issuer, Subject: "x"}}, false},
		"no issuer in the JWT":             {signingKey{pair: &Pair{}, issuedBy: issuer}, []provider.Subject{{Issuer: provider.NoIssuer, Subject: "x"}}, true},
		"another issuer":                   {signingKey{pair: &Pair{}, issuedBy: issuer}, []provider.Subject{{Issuer: "app", Subject: "app"}}, true},
		"allowed":                          {signingKey{pair: &Pair{}, issuedBy: issuer, allowed: Allowed{Subjects: []string{"x"}}}, []provider.Subject{{Issuer: issuer, Subject: "x"}}, true},
		"a later subject, others allowed":  {signingKey{pair: &Pair{}, issuedBy: issuer, allowed: Allowed{Subjects: []string{"x"}}}, []provider.Subject{{Issuer: issuer}}, false},
		"another issuer without a subject": {signingKey{pair: &Pair{}, issuedBy: issuer, allowed: Allowed{Subjects: []string{"x"}}}, []provider.Subject{{Issuer: "app"}}, true},
	} {
		err := test.key.checkSubjects(c, signing{subjects: test.subjects})
		assert.Equal(t, test.isOK, err == nil, "%s: %v", name, err)
	}
}
