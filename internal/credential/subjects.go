package credential

import (
	"slices"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/provider"
)

// checkSubjects returns an error if the key may not sign for a subject of a credential, which vendor is.
//
// A vendor that trusts the issuer of a key pair knows a credential only by its subject. So a credential cannot
// choose the subject of another one: without a list of subjects, the issuer signs only for the path of the
// credential itself. (Guarantee 17.)
func (k signingKey) checkSubjects(c *storedCredential, vendor provider.Credential) error {
	if k.pair == nil || c.isClient { // the credentials of a client have subjects of their own
		return nil
	}
	path := apipath.Keypair(c.keypairName())
	for _, one := range vendor.Destinations().Subjects {
		// An iss that is known only when it is signed may be the issuer.
		isIssued := k.issuedBy != "" && (one.Issuer == k.issuedBy || one.Issuer == "")
		switch {
		case slices.Contains(k.allowed.Subjects, one.Subject):
		case len(k.allowed.Subjects) > 0 && (one.Subject != "" || isIssued):
			return provider.Errorf(provider.Invalid, "keypair: %s does not sign for the subject %s; add it to allowed_subjects of %s", path, provider.Quote(one.Subject), path)
		case isIssued && one.Subject != c.path():
			return provider.Errorf(provider.Invalid, "keypair: the issuer of %s signs for the subject %q only, not for %s; leave out the subject, or add it to allowed_subjects of %s",
				path, c.path(), provider.Quote(one.Subject), path)
		}
	}
	return nil
}

// hasIdentityOf reports whether the key signs for the issuer and the subjects of another one.
func (k signingKey) hasIdentityOf(other signingKey) bool {
	return k.issuedBy == other.issuedBy && slices.Equal(k.allowed.Subjects, other.allowed.Subjects)
}
