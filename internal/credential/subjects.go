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

// signsAllOf reports whether the key signs as the issuer of another one, and for all subjects and audiences for which that
// one signs.
func (k signingKey) signsAllOf(other signingKey) bool {
	isOwnSubject := k.issuedBy != "" && len(k.allowed.Subjects) == 0 // without a list, an issuer signs for one subject
	return k.issuedBy == other.issuedBy && (!isOwnSubject || len(other.allowed.Subjects) == 0) &&
		allowsAllOf(k.allowed.Subjects, other.allowed.Subjects) && allowsAllOf(k.allowed.Audiences, other.allowed.Audiences)
}

// allowsAllOf reports whether a list of allowed values allows all that another one does. An empty list allows any value.
func allowsAllOf(list, other []string) bool {
	isMissing := func(value string) bool { return !slices.Contains(list, value) }
	return len(list) == 0 || len(other) > 0 && !slices.ContainsFunc(other, isMissing)
}
