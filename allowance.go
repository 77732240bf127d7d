package tokenbroker

import (
	"context"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/provider"
)

// An allowance is what a key pair may sign for. It is set on the key pair's own path only:
// a policy for a credential's name must not reach another name's key, and what the key
// signs goes only where that path allows.
type allowance struct {
	// Configs are the names of the credentials that may use the key pair; none stands for
	// the one of its own name.
	Configs []string `json:"allowed_configs,omitempty"`

	// Hosts are those that assertions may be sent to. Where they are not set, those of the
	// first credential that uses the key pair become it, and CACert with them: the
	// authorities that are believed about these hosts besides the system's.
	Hosts  []string `json:"allowed_hosts,omitempty"`
	CACert string   `json:"ca_cert,omitempty"`

	// Audiences are those that assertions may name; none allows all.
	Audiences []string `json:"allowed_audiences,omitempty"`
}

// allowanceFields are those of keypair/<name> that say what it may sign for.
func allowanceFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"allowed_configs": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "The names of the credentials that may use the key pair. Default: the one of its own name.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Allowed credentials"},
		},
		"allowed_hosts": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "The hosts that what the key pair signs may be sent to, as host or host:port. Default: those of the first credential that uses it.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Allowed hosts"},
		},
		"allowed_audiences": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "The values that the aud of assertions may have. Default: any.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Allowed audiences"},
		},
		"ca_cert": {
			Type:         framework.TypeString,
			Description:  "The authorities, in PEM, that a credential which uses the key pair may name in its ca_cert. Default: those of the first one that uses it.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "CA certificate", EditType: "file"},
		},
	}
}

// public is what is read of an allowance.
func (a allowance) public() map[string]any {
	list := func(values []string) []string { return append([]string{}, values...) }
	return map[string]any{
		"allowed_configs":   list(a.Configs),
		"allowed_hosts":     list(a.Hosts),
		"allowed_audiences": list(a.Audiences),
		"ca_cert":           a.CACert,
	}
}

// amended is the allowance with the fields that a write gives, and whether it gives any.
func (a allowance) amended(d *framework.FieldData) (allowance, bool, error) {
	isGiven := false
	for field, list := range map[string]*[]string{"allowed_configs": &a.Configs, "allowed_hosts": &a.Hosts, "allowed_audiences": &a.Audiences} {
		value, given := d.GetOk(field)
		if !given {
			continue
		}
		isGiven = true
		*list = slices.Compact(slices.Sorted(slices.Values(slices.DeleteFunc(value.([]string), func(text string) bool { return text == "" }))))
	}
	if value, given := d.GetOk("ca_cert"); given {
		isGiven, a.CACert = true, strings.TrimSpace(value.(string))
	}
	for i, host := range a.Hosts {
		a.Hosts[i] = provider.Host("https://" + host)
		if strings.Contains(host, "/") || provider.CheckURL("allowed_hosts", "https://"+host) != nil {
			return a, isGiven, provider.Errorf(provider.Invalid, "allowed_hosts: %s is not a host; give the host only, for example id.example.com or id.example.com:8443", provider.Quote(host))
		}
	}
	if a.CACert != "" {
		if _, err := provider.Certificates(a.CACert); err != nil {
			return a, isGiven, err
		}
	}
	return a, isGiven, nil
}

// check refuses a credential that the key pair of a name may not sign for.
func (a allowance) check(keypair, credential string, to destinations) error {
	path := keypairPrefix + keypair
	if credential != keypair && len(a.Configs) == 0 || len(a.Configs) > 0 && !slices.Contains(a.Configs, credential) {
		return provider.Errorf(provider.Invalid, "keypair: %s may not be used by the credential %q; add it to allowed_configs of %s", path, credential, path)
	}
	if len(a.Hosts) > 0 || a.CACert != "" {
		for _, host := range to.hosts() {
			if len(a.Hosts) > 0 && !slices.Contains(a.Hosts, host) {
				return provider.Errorf(provider.Invalid, "keypair: %s signs only for %s, not for %s; add that to allowed_hosts of %s", path, provider.List(a.Hosts), provider.Quote(host), path)
			}
		}
		known := authorities(a.CACert)
		for _, one := range to {
			id, isAuthority := strings.CutPrefix(one, authorityPrefix)
			if isAuthority && one != systemAuthorities && !slices.Contains(known, id) {
				return provider.Errorf(provider.Invalid, "ca_cert: holds a certificate that the ca_cert of %s does not; add it there", path)
			}
		}
	}
	for _, one := range to {
		audience, isAudience := strings.CutPrefix(one, audiencePrefix)
		switch {
		case !isAudience || len(a.Audiences) == 0 || slices.Contains(a.Audiences, audience):
		case audience == "":
			return provider.Errorf(provider.Invalid, "assertion_audience: is missing; with an issuer, the aud of assertions is not known otherwise, and %s has allowed_audiences", path)
		default:
			return provider.Errorf(provider.Invalid, "keypair: %s does not sign for the audience %s; add it to allowed_audiences of %s", path, provider.Quote(audience), path)
		}
	}
	return nil
}

// pin has a key pair that may sign for any host sign only for those of a credential that is
// about to use it. The caller has the key pair to itself.
func pin(ctx context.Context, s logical.Storage, name string, entry *configEntry, to destinations) error {
	if name == "" || entry.pair == nil || len(entry.allowance.Hosts) > 0 {
		return nil
	}
	k, err := getKeypair(ctx, s, name)
	switch {
	case err != nil:
		return err
	case k == nil:
		return broker.ErrBusy
	}
	k.allowance = k.pinned(to, caCertOf(entry))
	return putKeypair(ctx, s, name, k)
}

// pinned is an allowance for any host as one for the hosts of some destinations, and for
// the authorities that are believed about them.
func (a allowance) pinned(to destinations, caCert string) allowance {
	a.Hosts = to.hosts()
	if a.CACert == "" {
		a.CACert = caCert
	}
	return a
}

// sentToBy is where the credentials that can use a key pair send what it signs, and the
// authorities that they believe.
func (b *backend) sentToBy(us users) (to destinations, caCert string) {
	var certificates []string
	for _, u := range us {
		if sent := b.sentTo(u.provider, u.name, u.entry); sent != nil {
			to = append(to, sent...)
			if text := caCertOf(u.entry); text != "" && !slices.Contains(certificates, text) {
				certificates = append(certificates, text)
			}
		}
	}
	return to, strings.Join(certificates, "\n")
}
