package credential

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"vault-plugin-secrets-tokenbroker/provider"
)

// Destinations are where the secrets of a credential go, each in a form that can be stored and
// compared: URLs, the issuer whose host has them, the audiences of what a private key signs, and
// the authorities that are believed about who is at a URL. (Guarantee 13.)
type Destinations []string

// The destinations that are not URLs begin with one of these.
const (
	issuerPrefix    = "issuer "
	audiencePrefix  = "audience "
	authorityPrefix = "authority "

	// systemAuthorities are trusted where there is no ca_cert.
	systemAuthorities = authorityPrefix + "of the system"
)

// destinationsOf returns where a credential sends its secrets.
func destinationsOf(vendor provider.Credential, caCert string) Destinations {
	d := vendor.Destinations()
	if len(d.URLs) == 0 && d.Issuer == "" {
		return nil
	}
	all := slices.Clone(d.URLs)
	if d.Issuer != "" {
		all = append(all, issuerPrefix+d.Issuer)
	}
	for _, audience := range d.Audiences {
		all = append(all, audiencePrefix+audience)
	}
	if caCert == "" {
		return append(all, systemAuthorities)
	}
	for _, id := range authorities(caCert) {
		all = append(all, authorityPrefix+id)
	}
	return all
}

// authorities returns the certificates that a ca_cert makes trusted, each as its SHA-256. A
// ca_cert without any is an authority of its own, so that it is never taken for another.
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

// beyond returns those that are not among others.
func (d Destinations) beyond(others Destinations) Destinations {
	return slices.DeleteFunc(slices.Clone(d), func(one string) bool { return slices.Contains(others, one) })
}

// within reports whether all are among others.
func (d Destinations) within(others Destinations) bool { return len(d.beyond(others)) == 0 }

// String returns the first one, as an operator knows it.
func (d Destinations) String() string {
	switch {
	case len(d) == 0:
		return "nowhere"
	case strings.HasPrefix(d[0], authorityPrefix):
		return "a host that another ca_cert vouches for"
	case strings.HasPrefix(d[0], issuerPrefix):
		return "the endpoints of the " + d[0]
	case strings.HasPrefix(d[0], audiencePrefix):
		return "the assertion's " + audiencePrefix + provider.List([]string{strings.TrimPrefix(d[0], audiencePrefix)})
	}
	url, _, _ := strings.Cut(d[0], "?") // whose query may hold a secret
	return url
}

// hosts returns those of the URLs and of the issuer.
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

// sentTo returns where the secrets of a stored credential go. Of one that cannot be opened, it is
// where they were to go when it was written.
func (st *Store) sentTo(c *stored) Destinations {
	credential, err := st.open(c)
	if err != nil {
		return c.SentTo
	}
	return credential.SentTo
}

// checkDestinations refuses a write that would send a stored secret where its writer has not sent
// it: only an operator who knows the secret decides where it goes. (Guarantee 13.)
func (w Write) checkDestinations(after *stored, sent Destinations) error {
	var kept []string // the secrets that the write does not give
	for _, field := range sortedKeys(after.Fields) {
		if _, isGiven := w.Fields[field]; !isGiven && IsSecret(fieldsOf(after.vendor)[field]) {
			kept = append(kept, field)
		}
	}
	added := after.SentTo.beyond(sent)
	if len(kept) == 0 || len(added) == 0 {
		return nil
	}
	return provider.Errorf(provider.Invalid, "%s: must be given again, as this write changes where it is sent: to %.300s; a stored secret goes only where its writer sent it", strings.Join(kept, ", "), added)
}
