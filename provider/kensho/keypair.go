package kensho

import (
	"cmp"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/exchange"
)

const (
	// defaultTokenURL is the token endpoint of Kensho's authorization server at Okta. It is
	// also the audience of assertions, even if token_url is a proxy.
	defaultTokenURL = "https://kensho.okta.com/oauth2/default/v1/token"

	// keyPairLifetime is the lifetime of a token if neither it nor the response states one.
	keyPairLifetime = time.Hour
)

// openKeyPair returns a client of OAuth 2.0's client credentials grant that authenticates
// with private_key_jwt. As in Kensho's samples, requests have no client_id and the algorithm
// is RS256.
func openKeyPair(c config, client *provider.Client) (provider.Credential, error) {
	if err := provider.CheckFormValue("client_id", c.ClientID); err != nil {
		return nil, err
	}
	signer, err := provider.NewSigner(c.PrivateKey, "", c.KeyID)
	if err != nil {
		return nil, err
	}
	if !signer.IsRSA() {
		return nil, provider.Errorf(provider.Invalid, "private_key: is not an RSA key; Kensho accepts only RSA keys")
	}
	scope := c.Scope
	if len(scope) == 0 {
		scope = []string{scopeOf(c.Product)}
	}
	if err := provider.CheckScope("scope", scope); err != nil {
		return nil, err
	}
	tokenURL := cmp.Or(c.TokenURL, defaultTokenURL)
	if err := provider.CheckURL("token_url", tokenURL); err != nil {
		return nil, err
	}
	return &exchange.Client{
		HTTP:        client,
		Server:      &exchange.Server{Endpoints: exchange.Endpoints{Token: tokenURL}},
		GrantType:   "client_credentials",
		ID:          c.ClientID,
		AuthStyle:   exchange.PrivateKeyJWT,
		IsAnonymous: true,
		Signer:      signer,
		ClientAssertion: exchange.Assertion{Claims: exchange.NewClaims(map[string]any{
			"iss": exchange.Placeholder("client_id"), "sub": exchange.Placeholder("client_id"),
			"aud": exchange.Literal(cmp.Or(c.AssertionAudience, defaultTokenURL)),
		})},
		Scopes:   scope,
		Request:  exchange.Request{Form: map[string]exchange.Template{"grant_type": exchange.Literal(exchange.ClientCredentials), "scope": exchange.Placeholder("scope")}},
		Reading:  exchange.OAuth,
		Lifetime: keyPairLifetime,
	}, nil
}
