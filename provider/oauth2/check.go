package oauth2

import (
	"slices"
	"strings"

	"vault-plugin-secrets-tokenbroker/provider"
)

// reserved are the parameters that the engine sends itself.
var reserved = []string{"grant_type", "client_id", "client_secret", "refresh_token", "scope", "assertion", "client_assertion", "client_assertion_type"}

// check refuses what is missing, contradicts itself or cannot be sent. The config is
// complete.
func (c *config) check() error {
	for _, check := range []func() error{c.checkServer, c.checkGrant, c.checkClient, c.checkValues} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (c *config) checkServer() error {
	switch {
	case c.TokenURL == "" && c.Issuer == "":
		return provider.Errorf(provider.Invalid, "token_url: is missing; give the vendor's token endpoint, or its issuer")
	case c.TokenURL != "" && c.Issuer != "":
		return provider.Errorf(provider.Invalid, `token_url and issuer contradict each other: give one, and clear the other with token_url="" or issuer=""`)
	}
	for _, url := range []struct{ field, value string }{{"token_url", c.TokenURL}, {"issuer", c.Issuer}, {"revocation_url", c.RevocationURL}} {
		if url.value == "" {
			continue
		}
		if err := provider.CheckURL(url.field, url.value); err != nil {
			return err
		}
	}
	if strings.Contains(c.Issuer, "?") {
		return provider.Errorf(provider.Invalid, "issuer: must not hold a query (?…)")
	}
	return nil
}

// checkGrant sees that the grant has what it needs and nothing that it would not use.
func (c *config) checkGrant() error {
	isBearer := c.GrantType == "jwt_bearer"
	switch {
	case c.GrantType == "refresh_token" && c.RefreshToken == "":
		return provider.Errorf(provider.Invalid, "refresh_token: is missing, which grant_type=refresh_token exchanges")
	case c.GrantType != "refresh_token" && c.RefreshToken != "":
		return provider.Errorf(provider.Invalid, `refresh_token: is not for grant_type=%s; clear it with refresh_token="", or clear grant_type`, c.GrantType)
	case isBearer && c.PrivateKey == "":
		return provider.Errorf(provider.Invalid, "private_key: is missing, which signs the assertion of grant_type=jwt_bearer")
	case !isBearer && c.AssertionSubject != "":
		return provider.Errorf(provider.Invalid, "assertion_subject: goes with grant_type=jwt_bearer alone")
	case !isBearer && c.ScopeInAssertion:
		return provider.Errorf(provider.Invalid, "scope_in_assertion: goes with grant_type=jwt_bearer alone")
	case c.IdleExpiry != 0 && c.RefreshToken == "":
		return provider.Errorf(provider.Invalid, "idle_expiry: goes with a refresh_token alone")
	}
	return nil
}

// checkClient sees that the client can prove itself.
func (c *config) checkClient() error {
	signs := c.AuthStyle == PrivateKeyJWT || c.GrantType == "jwt_bearer"
	switch {
	case c.ClientID == "" && (c.AuthStyle != None || c.GrantType != "refresh_token"):
		return provider.Errorf(provider.Invalid, "client_id: is missing")
	case slices.Contains(secretStyles, c.AuthStyle) && c.ClientSecret == "":
		return provider.Errorf(provider.Invalid, "client_secret: is missing, which auth_style=%s proves the client by", c.AuthStyle)
	case signs && c.PrivateKey == "":
		return provider.Errorf(provider.Invalid, "private_key: is missing, which auth_style=private_key_jwt proves the client by")
	case !signs && c.PrivateKey != "":
		return provider.Errorf(provider.Invalid, `private_key: is not used with auth_style=%s; clear it with private_key="", or use auth_style=private_key_jwt`, c.AuthStyle)
	case c.ClientSecret != "" && (c.AuthStyle == PrivateKeyJWT || c.AuthStyle == None):
		return provider.Errorf(provider.Invalid, `client_secret: is not used with auth_style=%s; clear it with client_secret=""`, c.AuthStyle)
	case c.AuthStyle == None && c.GrantType != "refresh_token" && c.GrantType != "jwt_bearer":
		return provider.Errorf(provider.Invalid, "client_secret: is missing; a client that proves itself by nothing can have no grant_type=%s", c.GrantType)
	}
	for _, option := range []struct{ field, value string }{{"key_id", c.KeyID}, {"signing_algorithm", c.SigningAlgorithm}, {"assertion_audience", c.AssertionAudience}} {
		if option.value != "" && !signs {
			return provider.Errorf(provider.Invalid, "%s: goes with a private_key alone", option.field)
		}
	}
	return nil
}

// checkValues sees that what is sent can be.
func (c *config) checkValues() error {
	for _, value := range []struct{ field, value string }{{"client_id", c.ClientID}, {"refresh_token", c.RefreshToken}, {"client_secret", c.ClientSecret}} {
		if err := provider.CheckFormValue(value.field, value.value); err != nil {
			return err
		}
	}
	if c.AuthStyle == SecretBasicUnencoded && strings.Contains(c.ClientID, ":") {
		return provider.Errorf(provider.Invalid, "client_id: holds a colon, which ends it in HTTP Basic without an encoding (auth_style=%s); use another auth_style", SecretBasicUnencoded)
	}
	if err := provider.CheckScope("scope", c.Scope); err != nil {
		return err
	}
	for name := range c.TokenParams {
		if slices.Contains(reserved, name) {
			return provider.Errorf(provider.Invalid, "token_params: must not hold %s, which has a field of its own", name)
		}
	}
	return nil
}
