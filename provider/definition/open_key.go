package definition

import (
	"cmp"
	"encoding/base64"
	"encoding/hex"

	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/exchange"
)

// addAssertions sets the assertions and their key.
func (o *opening) addAssertions(c *exchange.Client) error {
	a := cmp.Or(o.grant.assertion, o.grant.clientAssertion)
	if a == nil {
		return nil
	}
	if o.grant.assertion != nil {
		c.Assertion = o.grant.assertion.Assertion
		if c.IsSelfSigned && c.Assertion.OmitsExpiry {
			c.DefaultTTL = cmp.Or(c.DefaultTTL, c.Assertion.Lifetime)
		}
	}
	if o.grant.clientAssertion != nil {
		c.ClientAssertion = o.grant.clientAssertion.Assertion
	}
	keyID := o.keyID()
	if a.key != "private_key" {
		secret, err := sharedSecret(o.text(a.key), a.keyEncoding)
		if err != nil {
			return provider.Errorf(provider.Invalid, "%s: is not %s, as %s has it", a.key, a.keyEncoding, o.d.Title)
		}
		c.Signer = provider.NewSharedSigner(secret, keyID)
		return nil
	}
	signer, err := provider.NewSigner(o.text("private_key"), o.text("signing_algorithm"), keyID, a.algorithms...)
	if err != nil {
		return err
	}
	c.Signer = signer
	if certificate := o.text("certificate"); certificate != "" {
		return provider.CheckCertificate(certificate, o.text("private_key"))
	}
	return nil
}

// sharedSecret decodes a secret that the vendor has too.
func sharedSecret(text, encoding string) ([]byte, error) {
	switch encoding {
	case "base64":
		return base64.StdEncoding.DecodeString(text)
	case "hex":
		return hex.DecodeString(text)
	}
	return []byte(text), nil
}

// api returns how the vendor's API takes a token; nil for the usual way.
func (o *opening) api() (*provider.API, error) {
	own := o.grant.api(o.d)
	if own.Header == "" && own.Scheme == "" && own.Query == "" && len(own.Headers) == 0 {
		return nil, nil
	}
	api := &provider.API{Header: own.Header, Scheme: own.Scheme, Query: own.Query}
	for name, text := range own.Headers {
		template, err := exchange.ParseTemplate(text)
		if err != nil {
			return api, err
		}
		filled, err := template.Fill(o.values)
		if err != nil {
			return api, err
		}
		if filled != "" {
			if api.Headers == nil {
				api.Headers = map[string]string{}
			}
			api.Headers[name] = filled
		}
	}
	return api, nil
}
