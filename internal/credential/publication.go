package credential

import (
	"net/url"
	"strings"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/provider"
)

// A Publication is how a key pair is published at jwks/<name>.
type Publication struct {
	Publish bool   `json:"publish,omitempty"`
	Issuer  string `json:"issuer,omitempty"`
}

// A PublicationRequest holds the fields of Publication that an operator sends. A nil field stays unchanged.
type PublicationRequest struct {
	Publish *bool
	Issuer  *string
}

func (w PublicationRequest) isEmpty() bool { return w == PublicationRequest{} }

// apply returns p with the write's fields, for the key pair with a name.
func (w PublicationRequest) apply(p Publication, name string) (Publication, error) {
	if w.Publish != nil {
		p.Publish = *w.Publish
	}
	if w.Issuer != nil {
		p.Issuer = strings.TrimSpace(*w.Issuer)
	}
	switch {
	case p.Issuer == "":
		return p, nil
	case !p.Publish:
		return p, provider.Errorf(provider.Invalid, `issuer: requires publish=true; set that, or clear this with issuer=""`)
	}
	if err := provider.CheckURL("issuer", p.Issuer); err != nil {
		return p, err
	}
	u, err := url.Parse(p.Issuer)
	if err != nil || strings.ContainsAny(p.Issuer, "?#") || !strings.HasSuffix(u.Path, "/"+apipath.JWKS(name)) {
		return p, provider.Errorf(provider.Invalid, "issuer: must be the URL at which this server has %s", apipath.JWKS(name))
	}
	return p, nil
}
