package oauth2

import (
	"net/url"
	"slices"
	"strings"

	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/exchange"
)

// reserved are the request parameters that token_params must not set.
var reserved = []string{"grant_type", "client_id", "client_secret", "refresh_token", "scope", "assertion", "client_assertion", "client_assertion_type",
	"subject_token", "subject_token_type", "actor_token", "actor_token_type"}

// check returns an error of kind Invalid if fields are missing, contradict each other or
// cannot be sent. It expects the defaults of complete.
func (c *config) check() error {
	for _, check := range []func() error{c.checkServer, c.checkGrant, c.checkClient, c.checkIdentity, c.checkValues} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (c *config) checkServer() error {
	switch {
	case c.TokenURL == "" && c.Issuer == "":
		return provider.Errorf(provider.Invalid, "token_url: must be set; give the vendor's token endpoint, or set issuer instead")
	case c.TokenURL != "" && c.Issuer != "":
		return provider.Errorf(provider.Invalid, `token_url and issuer are mutually exclusive; keep one, and clear the other with token_url="" or issuer=""`)
	}
	for _, url := range []struct{ field, value string }{
		{"token_url", c.TokenURL}, {"issuer", c.Issuer}, {"revocation_url", c.RevocationURL},
		{"authorization_url", c.AuthorizationURL}, {"redirect_uri", c.RedirectURI}, {"device_authorization_url", c.DeviceURL},
	} {
		if url.value == "" {
			continue
		}
		if err := provider.CheckURL(url.field, url.value); err != nil {
			return err
		}
	}
	if strings.Contains(c.Issuer, "?") {
		return provider.Errorf(provider.Invalid, "issuer: must not contain a query (?…)")
	}
	return nil
}

// checkGrant checks that the fields that the grant needs are set, and none that it ignores.
func (c *config) checkGrant() error {
	isBearer := c.GrantType == "jwt_bearer"
	switch {
	case c.GrantType == "refresh_token" && c.RefreshToken == "" && !c.canConsent():
		return provider.Errorf(provider.Invalid, "refresh_token: must be set with grant_type=refresh_token; or set authorization_url, and a person can consent")
	case c.GrantType == "refresh_token" && c.RefreshToken == "" && c.RedirectURI+c.DeviceURL == "":
		return provider.Errorf(provider.Invalid, "refresh_token: must be set with grant_type=refresh_token; or set redirect_uri or device_authorization_url, and a person can consent")
	case c.GrantType != "refresh_token" && c.AuthorizationURL+c.DeviceURL+c.RedirectURI != "":
		return provider.Errorf(provider.Invalid, "authorization_url, device_authorization_url and redirect_uri: apply only to grant_type=refresh_token, whose refresh token a person's consent yields")
	case c.GrantType != "refresh_token" && c.RefreshToken != "":
		return provider.Errorf(provider.Invalid, `refresh_token: does not apply to grant_type=%s; clear it with refresh_token="", or clear grant_type`, c.GrantType)
	case isBearer && c.PrivateKey == "":
		return provider.Errorf(provider.Invalid, "private_key: must be set with grant_type=jwt_bearer, to sign the assertion")
	case !isBearer && c.AssertionSubject != "":
		return provider.Errorf(provider.Invalid, `assertion_subject: applies only to grant_type=jwt_bearer; omit it, or clear it with assertion_subject=""`)
	case !isBearer && c.ScopeInAssertion:
		return provider.Errorf(provider.Invalid, "scope_in_assertion: applies only to grant_type=jwt_bearer; omit it, or set it to false")
	case c.IdleExpiry != 0 && c.GrantType != "refresh_token":
		return provider.Errorf(provider.Invalid, "idle_expiry: applies only with a refresh_token; omit it, or clear it with idle_expiry=0")
	}
	return nil
}

// checkClient checks that the fields that the client authentication needs are set, and none
// that it ignores.
func (c *config) checkClient() error {
	signs, isMutual := c.signs(), c.AuthStyle == exchange.TLSClientAuth
	switch {
	case isMutual && c.Certificate == "":
		return provider.Errorf(provider.Invalid, "certificate: must be set with auth_style=tls_client_auth")
	case isMutual && c.PrivateKey == "":
		return provider.Errorf(provider.Invalid, "private_key: must be set with auth_style=tls_client_auth, to prove the certificate")
	case !isMutual && c.Certificate != "":
		return provider.Errorf(provider.Invalid, `certificate: applies only to auth_style=tls_client_auth; set that, or clear it with certificate=""`)
	case c.ClientID == "" && (c.AuthStyle != exchange.None || c.GrantType != "refresh_token"):
		return provider.Errorf(provider.Invalid, "client_id: must be set")
	case slices.Contains(exchange.SecretStyles, c.AuthStyle) && c.ClientSecret == "":
		return provider.Errorf(provider.Invalid, "client_secret: must be set with auth_style=%s", c.AuthStyle)
	case signs && c.PrivateKey == "":
		return provider.Errorf(provider.Invalid, "private_key: must be set with auth_style=private_key_jwt")
	case !signs && !isMutual && c.PrivateKey != "":
		return provider.Errorf(provider.Invalid, `private_key: is not used with auth_style=%s; clear it with private_key="", or use auth_style=private_key_jwt`, c.AuthStyle)
	case c.ClientSecret != "" && (slices.Contains([]string{exchange.PrivateKeyJWT, exchange.IdentityToken, exchange.None}, c.AuthStyle) || isMutual):
		return provider.Errorf(provider.Invalid, `client_secret: is not used with auth_style=%s; clear it with client_secret=""`, c.AuthStyle)
	case c.AuthStyle == exchange.None && c.GrantType != "refresh_token" && c.GrantType != "jwt_bearer":
		return provider.Errorf(provider.Invalid, "client_secret: must be set; grant_type=%s needs client authentication", c.GrantType)
	}
	for _, option := range []struct{ field, value string }{{"key_id", c.KeyID}, {"signing_algorithm", c.SigningAlgorithm}, {"assertion_audience", c.AssertionAudience}} {
		if option.value != "" && !signs {
			return provider.Errorf(provider.Invalid, `%s: applies only with a private_key; omit it, or clear it with %s=""`, option.field, option.field)
		}
	}
	return nil
}

// checkIdentity checks what the identity token needs.
func (c *config) checkIdentity() error {
	isUsed := c.AuthStyle == exchange.IdentityToken
	switch {
	case isUsed && c.IdentityAudience == "":
		return provider.Errorf(provider.Invalid, "identity_token_audience: must be set with auth_style=identity_token")
	case !isUsed && c.IdentityAudience != "":
		return provider.Errorf(provider.Invalid, `identity_token_audience: applies only to auth_style=identity_token; set that, or clear it with identity_token_audience=""`)
	case !isUsed && c.IdentityTTL != nil:
		return provider.Errorf(provider.Invalid, "identity_token_ttl: applies only to auth_style=identity_token")
	case isUsed:
		return provider.CheckIdentityTTL(c.identityTTL())
	}
	return nil
}

// checkValues checks that a request can carry the values.
func (c *config) checkValues() error {
	for _, value := range []struct{ field, value string }{{"client_id", c.ClientID}, {"refresh_token", c.RefreshToken}, {"client_secret", c.ClientSecret}, {"identity_token_audience", c.IdentityAudience}} {
		if err := provider.CheckFormValue(value.field, value.value); err != nil {
			return err
		}
	}
	if c.AuthStyle == exchange.SecretBasicUnencoded && strings.Contains(c.ClientID, ":") {
		return provider.Errorf(provider.Invalid, "client_id: contains a colon, which HTTP Basic cannot carry without encoding (auth_style=%s); use another auth_style", exchange.SecretBasicUnencoded)
	}
	if err := provider.CheckScope("scope", c.Scope); err != nil {
		return err
	}
	for name := range c.TokenParams {
		if slices.Contains(reserved, name) {
			return provider.Errorf(provider.Invalid, "token_params: must not contain %s, which the engine sets from other fields", name)
		}
	}
	for name, list := range map[string][]string{"audience": c.Audience, "resource": c.Resource} {
		if _, isGiven := c.TokenParams[name]; isGiven && len(list) > 0 {
			return provider.Errorf(provider.Invalid, "token_params: must not contain %s, as the field %s is set", name, name)
		}
	}
	for _, resource := range c.Resource {
		if u, err := url.Parse(resource); err != nil || !u.IsAbs() || u.Fragment != "" {
			return provider.Errorf(provider.Invalid, "resource: %s is not an absolute URI without a fragment (RFC 8707)", provider.Quote(resource))
		}
	}
	for name := range c.AuthorizationParams {
		if slices.Contains(exchange.ConsentParams, name) {
			return provider.Errorf(provider.Invalid, "authorization_params: must not contain %s, which the engine sets", name)
		}
	}
	return nil
}
