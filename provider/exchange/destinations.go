package exchange

import (
	"slices"

	"vault-plugin-secrets-tokenbroker/provider"
)

// Destinations returns the endpoints, or the issuer whose metadata has them.
func (c *Client) Destinations() provider.Destinations {
	if c.IsSelfSigned {
		d := provider.Destinations{Signs: true}
		c.addClaims(&d, []string{""})
		return d
	}
	d := provider.Destinations{Issuer: c.Server.Issuer}
	for _, step := range c.Before {
		d.URLs = append(d.URLs, step.URL)
	}
	own := []string{c.Server.Token, c.Server.Revocation}
	if c.Authorization != nil {
		own = append(own, c.Authorization.DeviceURL)
	}
	if c.Again != nil {
		own = append(own, c.Again.URL)
	}
	if c.Delegated != nil {
		own = append(own, c.Delegated.Request.URL)
	}
	for _, url := range own {
		if url != "" && !slices.Contains(d.URLs, url) {
			d.URLs = append(d.URLs, url)
		}
	}
	if c.sendsIdentity() {
		d.Audiences = append(d.Audiences, c.Identity.Audience)
	}
	if c.Signer == nil {
		return d
	}
	endpoints := slices.Clone(d.URLs)
	if d.Issuer != "" {
		endpoints = append(endpoints, "")
	}
	c.addClaims(&d, endpoints)
	return d
}

// addClaims adds the audiences and the subjects of the assertions that are sent to the given endpoints. An
// empty string stands for an endpoint that is not known yet.
func (c *Client) addClaims(d *provider.Destinations, endpoints []string) {
	for _, a := range c.assertions() {
		for _, endpoint := range endpoints {
			values := c.values("")
			values["token_url"] = endpoint
			for _, audience := range a.claim("aud", values) {
				if !slices.Contains(d.Audiences, audience) {
					d.Audiences = append(d.Audiences, audience)
				}
			}
			subject := provider.Subject{Issuer: only(a.claim("iss", values)), Subject: only(a.claim("sub", values))}
			if !a.has("iss") {
				subject.Issuer = provider.NoIssuer
			}
			if !slices.Contains(d.Subjects, subject) {
				d.Subjects = append(d.Subjects, subject)
			}
		}
	}
}

// only returns the only text of a claim; "" if there is none, or if there are several.
func only(texts []string) string {
	if len(texts) != 1 {
		return ""
	}
	return texts[0]
}

// assertions returns the assertions that the client signs.
func (c *Client) assertions() []Assertion {
	var all []Assertion
	if c.AuthStyle == PrivateKeyJWT {
		all = append(all, c.ClientAssertion)
	}
	if c.IsSelfSigned || usesAssertion(c.names()) {
		all = append(all, c.Assertion)
	}
	return all
}

// names returns the names of the placeholders of all requests.
func (c *Client) names() []string {
	names := c.Request.Names()
	for _, step := range c.Before {
		names = append(names, step.Request.Names()...)
	}
	for _, r := range []*Request{c.Again, c.Revocation} {
		if r != nil {
			names = append(names, r.Names()...)
		}
	}
	if c.Delegated != nil {
		names = append(names, c.Delegated.Request.Names()...)
	}
	return names
}
