package credential

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/provider"
)

// Allowed restricts what a key pair signs for. Only a write to the key pair's own path sets it, so
// that a policy for one credential never gives access to another key. (Guarantee 17.)
type Allowed struct {
	// Configs are the names of the credentials that may use the key pair. If empty, only the
	// credential with the key pair's name may.
	Configs []string `json:"allowed_configs,omitempty"`

	// Clients are the names of the clients that may use the key pair.
	Clients []string `json:"allowed_clients,omitempty"`

	// Hosts are the hosts that assertions may be sent to. CACert holds the certificate authorities
	// trusted for these hosts besides the system's. If no hosts are set, the first credential
	// that uses the key pair sets both.
	Hosts  []string `json:"allowed_hosts,omitempty"`
	CACert string   `json:"ca_cert,omitempty"`

	// Audiences are the audiences that assertions may name. If empty, any may be named.
	Audiences []string `json:"allowed_audiences,omitempty"`

	// Subjects are the subjects that assertions may name. If empty, any may be named, but the issuer of a
	// key pair signs only for the path of the credential itself.
	Subjects []string `json:"allowed_subjects,omitempty"`
}

// An AllowedRequest holds the fields of Allowed that an operator sends. A nil field stays unchanged.
type AllowedRequest struct {
	Configs, Clients, Hosts, Audiences, Subjects *[]string
	CACert                                       *string
}

func (w AllowedRequest) isEmpty() bool { return w == AllowedRequest{} }

// apply returns a with the write's fields.
func (w AllowedRequest) apply(a Allowed) (Allowed, error) {
	for _, field := range []struct {
		given *[]string
		list  *[]string
	}{{w.Configs, &a.Configs}, {w.Clients, &a.Clients}, {w.Hosts, &a.Hosts}, {w.Audiences, &a.Audiences}, {w.Subjects, &a.Subjects}} {
		if field.given != nil {
			*field.list = slices.DeleteFunc(slices.Compact(slices.Sorted(slices.Values(*field.given))), func(text string) bool { return text == "" })
		}
	}
	if w.CACert != nil {
		a.CACert = strings.TrimSpace(*w.CACert)
	}
	a.Hosts = slices.Clone(a.Hosts)
	for i, host := range a.Hosts {
		if strings.Contains(host, "/") || provider.CheckURL("allowed_hosts", "https://"+host) != nil {
			return a, provider.Errorf(provider.Invalid, "allowed_hosts: %s is not a host; use the form id.example.com or id.example.com:8443", provider.Quote(host))
		}
		a.Hosts[i] = provider.Host("https://" + host)
	}
	if a.CACert != "" {
		if _, err := provider.Certificates(a.CACert); err != nil {
			return a, err
		}
	}
	return a, nil
}

// check returns an error if the key pair may not sign for a credential with these destinations.
func (a Allowed) check(c *storedCredential, to Destinations) error {
	keypair := c.keypairName()
	path := apipath.Keypair(keypair)
	switch {
	case c.client.hasKeypair():
		if !slices.Contains(a.Clients, c.client.name) {
			return provider.Errorf(provider.Invalid, "keypair: %s may not be used by the client %q; add it to allowed_clients of %s", path, c.client.name, path)
		}
	case c.name != keypair && len(a.Configs) == 0 || len(a.Configs) > 0 && !slices.Contains(a.Configs, c.name):
		return provider.Errorf(provider.Invalid, "keypair: %s may not be used by the credential %q; add it to allowed_configs of %s", path, c.name, path)
	}
	if len(a.Hosts) > 0 || a.CACert != "" {
		if err := a.checkHosts(path, to); err != nil {
			return err
		}
	}
	for _, one := range to {
		audience, isAudience := strings.CutPrefix(one, audiencePrefix)
		switch {
		case !isAudience || len(a.Audiences) == 0 || slices.Contains(a.Audiences, audience):
		case audience == "":
			return provider.Errorf(provider.Invalid, "assertion_audience: must be set, as %s has allowed_audiences and an issuer does not determine the audience", path)
		default:
			return provider.Errorf(provider.Invalid, "keypair: %s does not sign for the audience %s; add it to allowed_audiences of %s", path, provider.Quote(audience), path)
		}
	}
	return nil
}

func (a Allowed) checkHosts(path string, to Destinations) error {
	for _, host := range to.hosts() {
		if len(a.Hosts) > 0 && !slices.Contains(a.Hosts, host) {
			return provider.Errorf(provider.Invalid, "keypair: %s signs only for %s, not for %s; add the host to allowed_hosts of %s", path, provider.List(a.Hosts), provider.Quote(host), path)
		}
	}
	known := authorities(a.CACert)
	for _, one := range to {
		id, isAuthority := strings.CutPrefix(one, authorityPrefix)
		if isAuthority && one != systemAuthorities && !slices.Contains(known, id) {
			return provider.Errorf(provider.Invalid, "ca_cert: contains a certificate that is not in the ca_cert of %s; add it there first", path)
		}
	}
	return nil
}

// bound returns a restricted to the hosts of some destinations. caCert holds the authorities
// trusted for them.
func (a Allowed) bound(to Destinations, caCert string) Allowed {
	a.Hosts = to.hosts()
	if a.CACert == "" {
		a.CACert = caCert
	}
	return a
}

// bindKeypair restricts a key pair without allowed hosts to the hosts of the credential that is
// about to use it, and records how long what it signs for the credential is valid. The caller holds the lock of the
// key pair.
func (st *Store) bindKeypair(ctx context.Context, s logical.Storage, c *storedCredential, opened *broker.Credential) error {
	return st.bind(ctx, s, c.keypairName(), c.key, c.SentTo, c.setting("ca_cert"), signedLifetime(opened))
}

func (st *Store) bind(ctx context.Context, s logical.Storage, name string, key signingKey, to Destinations, caCert string, lifetime time.Duration) error {
	if name == "" || key.pair == nil {
		return nil
	}
	isBound, isLonger := len(key.allowed.Hosts) > 0, key.isPublished && lifetime > key.pair.SignedFor
	if isBound && !isLonger {
		return nil
	}
	k, err := getKeypair(ctx, s, name)
	switch {
	case err != nil:
		return err
	case k == nil:
		return broker.ErrBusy
	}
	if !isBound {
		k.Allowed = k.bound(to, caCert)
	}
	if isLonger {
		k.Active = k.Active.signing(lifetime)
	}
	return st.putKeypair(ctx, s, name, k)
}
