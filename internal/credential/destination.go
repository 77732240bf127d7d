package credential

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/provider"
)

// Destinations describe where the secrets of a credential go, in a form that can be stored and
// compared: URLs, the issuer that lists its endpoints, the audiences of signed assertions, and the
// certificate authorities trusted to identify the hosts. (Guarantee 13.)
type Destinations []string

// Prefixes of the destinations that are not URLs.
const (
	issuerPrefix    = "issuer "
	audiencePrefix  = "audience "
	authorityPrefix = "authority "

	// readers get what a credential signs if the signature is the token.
	readers = "readers of its tokens"

	// systemAuthorities stands for the system's authorities, trusted if there is no ca_cert.
	systemAuthorities = authorityPrefix + "of the system"
)

// destinationsOf returns where a credential sends its secrets.
func destinationsOf(vendor provider.Credential, caCert string) Destinations {
	d := vendor.Destinations()
	if len(d.URLs) == 0 && d.Issuer == "" && !d.Signs {
		return nil
	}
	all := slices.Clone(d.URLs)
	if d.Issuer != "" {
		all = append(all, issuerPrefix+d.Issuer)
	}
	for _, audience := range d.Audiences {
		all = append(all, audiencePrefix+audience)
	}
	if d.Signs {
		all = append(all, readers)
	}
	switch {
	case len(d.URLs) == 0 && d.Issuer == "":
		return all
	case caCert == "":
		return append(all, systemAuthorities)
	}
	for _, id := range authorities(caCert) {
		all = append(all, authorityPrefix+id)
	}
	return all
}

// authorities returns the SHA-256 of each certificate in a ca_cert. A ca_cert that holds none
// yields the SHA-256 of its text, so that it never equals another.
func authorities(caCert string) []string {
	certificates, err := provider.Certificates(caCert)
	if err != nil {
		return []string{fingerprint([]byte(caCert))}
	}
	var ids []string
	for _, certificate := range certificates {
		ids = append(ids, fingerprint(certificate.Raw))
	}
	return ids
}

func fingerprint(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// beyond returns the destinations that are not in others.
func (d Destinations) beyond(others Destinations) Destinations {
	return slices.DeleteFunc(slices.Clone(d), func(one string) bool { return slices.Contains(others, one) })
}

// within reports whether all destinations are in others.
func (d Destinations) within(others Destinations) bool { return len(d.beyond(others)) == 0 }

// String describes the first destination to an operator.
func (d Destinations) String() string {
	switch {
	case len(d) == 0:
		return "nowhere"
	case strings.HasPrefix(d[0], authorityPrefix):
		return "a host trusted by another ca_cert"
	case strings.HasPrefix(d[0], issuerPrefix):
		return "the endpoints of the " + d[0]
	case strings.HasPrefix(d[0], audiencePrefix):
		return "the assertion's " + audiencePrefix + provider.List([]string{strings.TrimPrefix(d[0], audiencePrefix)})
	}
	url, _, _ := strings.Cut(d[0], "?") // the query may hold a secret
	return url
}

// hosts returns the hosts of the URLs and of the issuer, sorted.
func (d Destinations) hosts() []string {
	var hosts []string
	for _, one := range d {
		if host := provider.Host(strings.TrimPrefix(one, issuerPrefix)); host != "" && !strings.HasPrefix(one, audiencePrefix) {
			hosts = append(hosts, host)
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// sentTo returns where the secrets of a stored credential go. opened is nil if the credential
// cannot be opened; the destinations are then those recorded when it was written.
func (c *storedCredential) sentTo(opened *broker.Credential) Destinations {
	if opened == nil {
		return c.SentTo
	}
	return opened.SentTo
}

// checkDestinations returns an error if a write would send a stored secret to a destination that
// the writer of the secret did not choose. (Guarantee 13.)
func (w WriteRequest) checkDestinations(next *storedCredential, sent Destinations) error {
	var missing []string // the secrets that the write does not give
	for _, field := range sortedKeys(next.Fields) {
		if _, isGiven := w.Fields[field]; !isGiven && IsSecret(FieldSchemas(next.vendor)[field]) {
			missing = append(missing, field)
		}
	}
	added := next.SentTo.beyond(sent)
	if len(missing) == 0 || len(added) == 0 {
		return nil
	}
	return provider.Errorf(provider.Invalid, "%s: must be given again, as this write would send the stored value to a new destination: %.300s", strings.Join(missing, ", "), added)
}
