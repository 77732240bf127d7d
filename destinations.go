package tokenbroker

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-tokenbroker/provider"
)

// destinations are where the secrets of a credential go, each in a form that can be stored
// and compared: URLs, the issuer whose host has them, the audiences of what a private key
// signs, and the authorities that are believed about who is at a URL.
type destinations []string

// The destinations that are not URLs begin with one of these.
const (
	issuerPrefix    = "issuer "
	audiencePrefix  = "audience "
	authorityPrefix = "authority "

	// systemAuthorities are those that are trusted where there is no ca_cert.
	systemAuthorities = authorityPrefix + "of the system"
)

// destinationsOf are where a credential that is open sends its secrets.
func destinationsOf(vendor provider.Credential, caCert string) destinations {
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

// beyond are those that are not among some others.
func (d destinations) beyond(others destinations) destinations {
	return slices.DeleteFunc(slices.Clone(d), func(one string) bool { return slices.Contains(others, one) })
}

// within is whether all are among some others.
func (d destinations) within(others destinations) bool { return len(d.beyond(others)) == 0 }

// String is the first of them, as an operator knows it.
func (d destinations) String() string {
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

// hosts are those of the URLs and of the issuer.
func (d destinations) hosts() []string {
	var hosts []string
	for _, one := range d {
		if host := provider.Host(strings.TrimPrefix(one, issuerPrefix)); host != "" && !strings.HasPrefix(one, audiencePrefix) {
			hosts = append(hosts, host)
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// keptSecrets are the secret fields that are stored already and that a write does not give
// again.
func (c *configEntry) keptSecrets(d *framework.FieldData) []string {
	var kept []string
	for _, field := range sortedKeys(c.Fields) {
		if schema := d.Schema[field]; schema != nil && isSecret(schema) && d.Raw[field] == nil {
			kept = append(kept, field)
		}
	}
	return kept
}

// sentTo is where the secrets of a stored credential go. One that cannot be opened says
// where they were to go when it was written.
func (b *backend) sentTo(p provider.Provider, name string, stored *configEntry) destinations {
	credential, err := b.open(p, name, stored)
	if err != nil {
		return stored.SentTo
	}
	return destinationsOf(credential.Vendor, caCertOf(stored))
}

// refuseRedirected refuses a write that would send a stored secret where its writer has not
// sent it: only a writer who knows the secret decides where it goes.
func (b *backend) refuseRedirected(p provider.Provider, name string, stored, next *configEntry, to destinations, d *framework.FieldData) error {
	if stored == nil {
		return nil
	}
	kept := next.keptSecrets(d)
	if len(kept) == 0 {
		return nil
	}
	added := to.beyond(b.sentTo(p, name, stored))
	if len(added) == 0 {
		return nil
	}
	return provider.Errorf(provider.Invalid, "%s: must be given again, as this write changes where it is sent: to %.300s; a stored secret goes only where its writer sent it", strings.Join(kept, ", "), added)
}

func caCertOf(c *configEntry) string {
	text, _ := c.Fields["ca_cert"].(string)
	return text
}
