package definition

import (
	"errors"
	"fmt"
	"slices"

	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/exchange"
)

// An Authorization says where a person consents, so that the vendor issues a refresh token (RFC 6749 §4.1).
type Authorization struct {
	URL string `json:"url"`

	// DeviceURL is where a consent on another device begins (RFC 8628).
	DeviceURL string `json:"device_url,omitempty"`

	// Query has further parameters, such as access_type=offline.
	Query map[string]string `json:"query,omitempty"`

	// Issuer is the issuer of ID tokens, if the vendor speaks OpenID Connect.
	Issuer string `json:"issuer,omitempty"`
}

// fieldsOfConsent are fields that a definition with an authorization has.
var fieldsOfConsent = []string{"redirect_uri", "scope"}

// addConsentFields adds the fields that a consent needs and the definition does not describe.
func (d *Definition) addConsentFields() error {
	if d.Authorization == nil {
		return nil
	}
	for _, name := range fieldsOfConsent {
		if d.fields[name] != nil {
			continue
		}
		f, err := compileField(name, Field{})
		if err != nil {
			return at(pointerTo("fields", name), err)
		}
		d.fields[name] = f
	}
	return nil
}

// A consent is an Authorization with its templates parsed.
type consent struct {
	url, deviceURL, issuer exchange.Template
	query                  map[string]exchange.Template
}

// consent parses the authorization of a grant that exchanges the refresh token of the operator.
func (c *compiler) consent() error {
	given := c.d.Authorization
	if given == nil || c.g.given.Refresh != nil || !slices.Contains(c.g.uses, "refresh_token") {
		return nil
	}
	place := ofDefinition + "/authorization"
	if err := checkCodeRequest(c.g.given); err != nil {
		return at(place, err)
	}
	c.forBrowser = true
	defer func() { c.forBrowser = false }()
	parsed := &consent{}
	for _, one := range []struct {
		place, text string
		to          *exchange.Template
	}{{"/url", given.URL, &parsed.url}, {"/device_url", given.DeviceURL, &parsed.deviceURL}, {"/issuer", given.Issuer, &parsed.issuer}} {
		if one.text == "" {
			continue
		}
		var r request
		if err := c.url(one.text, &r); err != nil {
			return at(place+one.place, err)
		}
		*one.to = r.url
	}
	for name := range given.Query {
		if slices.Contains(exchange.ConsentParams, name) {
			return fmt.Errorf("%s/query%s: the engine sets the parameter", place, pointerTo(name))
		}
	}
	var err error
	if parsed.query, err = c.templates(given.Query, "/query"); err != nil {
		return at(place, err)
	}
	c.g.consent = parsed
	return nil
}

// checkCodeRequest checks that the request of a refresh token can exchange a code as well: its parameters are
// all in a form, a query, or the members of a JSON object, and no earlier step has a part in it.
func checkCodeRequest(g *Grant) error {
	members, _ := g.Request.JSON.(map[string]any)
	has := map[string]bool{}
	for part, values := range map[string]any{"form": g.Request.Form, "query": g.Request.Query, "json": members} {
		texts := map[string]any{}
		switch values := values.(type) {
		case map[string]string:
			for name, text := range values {
				texts[name] = text
			}
		case map[string]any:
			texts = values
		}
		for name, text := range texts {
			if text == "{refresh_token}" || name == "grant_type" {
				has[part] = true
			}
		}
	}
	if len(g.Before) > 0 || len(has) != 1 {
		return fmt.Errorf("the grant %s cannot exchange a code: its request must have {refresh_token} and grant_type as parameters of one form, query or JSON object, and no step before it", g.GrantType)
	}
	return nil
}

// checkConsent checks that a grant can use the authorization.
func (d *Definition) checkConsent() error {
	if d.Authorization != nil && !slices.ContainsFunc(d.compiled, func(g *grant) bool { return g.consent != nil }) {
		return errors.New("/authorization: no grant exchanges a refresh token, which the consent would yield")
	}
	return nil
}

// usesField reports whether the grant uses a field, for an exchange, for the API, or for a consent.
func (g *grant) usesField(d *Definition, name string) bool {
	return slices.Contains(g.uses, name) || slices.Contains(g.api(d).names(), name) ||
		g.consent != nil && slices.Contains(fieldsOfConsent, name) || g.rotates(name)
}

// canConsent reports whether a person's consent can yield the refresh token that is not given.
func (o *opening) canConsent() bool {
	return o.grant.consent != nil && (o.values["redirect_uri"] != nil || o.d.Authorization.DeviceURL != "")
}

// addConsent sets how a person consents.
func (o *opening) addConsent(c *exchange.Client) error {
	parsed := o.grant.consent
	if parsed == nil {
		return nil
	}
	authorization := &exchange.Authorization{Query: parsed.query, Code: exchange.CodeRequest(c.Request), Device: exchange.DeviceRequest(c.Request)}
	authorization.Scopes, _ = o.values["scope"].([]string)
	var err error
	if authorization.URL, err = exchange.FillURL(parsed.url, o.values); err != nil {
		return err
	}
	if o.d.Authorization.DeviceURL != "" {
		if authorization.DeviceURL, err = exchange.FillURL(parsed.deviceURL, o.values); err != nil {
			return err
		}
	}
	if o.d.Authorization.Issuer != "" {
		if authorization.OpenID, err = exchange.FillURL(parsed.issuer, o.values); err != nil {
			return err
		}
	}
	if to := o.text("redirect_uri"); to != "" {
		if err := provider.CheckURL("redirect_uri", to); err != nil {
			return err
		}
	}
	c.Authorization = authorization
	return nil
}
