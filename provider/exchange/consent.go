package exchange

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"vault-plugin-secrets-tokenbroker/provider"
)

// An Authorization describes how a person's consent yields the refresh token (RFC 6749 §4.1).
type Authorization struct {
	// URL is the authorization endpoint; "" for that of the issuer's metadata.
	URL string

	// DeviceURL is the device authorization endpoint (RFC 8628); "" for that of the issuer's metadata.
	DeviceURL string

	// Query are parameters in addition to those of RFC 6749 and RFC 7636.
	Query map[string]Template

	// Code is the request that exchanges a code: {code}, {redirect_uri} and {code_verifier}. Device is that
	// for {device_code}.
	Code, Device Request

	// Scopes are the scopes to ask for; none asks for the vendor's default.
	Scopes []string

	// OpenID is the issuer of ID tokens; "" if the vendor does not speak OpenID Connect.
	OpenID string
}

// ConsentParams are the parameters of the authorization URL that the engine sets.
var ConsentParams = []string{"response_type", "client_id", "redirect_uri", "state", "scope", "code_challenge", "code_challenge_method", "nonce"}

// CodeRequest returns the request that exchanges a code (RFC 6749 §4.1.3), as the vendor takes the one that
// exchanges a refresh token: with the parameters of the code in place of those of the refresh token.
func CodeRequest(refresh Request) Request {
	return requestWith(refresh, map[string]Template{
		"grant_type": Literal("authorization_code"), "code": Placeholder("code"), "redirect_uri": Placeholder("redirect_uri"), "code_verifier": Placeholder("code_verifier"),
	})
}

// DeviceRequest is CodeRequest for a device code (RFC 8628 §3.4).
func DeviceRequest(refresh Request) Request {
	return requestWith(refresh, map[string]Template{
		"grant_type": Literal("urn:ietf:params:oauth:grant-type:device_code"), "device_code": Placeholder("device_code"),
	})
}

// requestWith returns a request with other parameters in place of those of a refresh token.
func requestWith(refresh Request, params map[string]Template) Request {
	next := refresh
	object, isObject := map[string]any(nil), false
	if refresh.JSON != nil {
		object, isObject = refresh.JSON.value.(map[string]any)
	}
	switch {
	case isObject:
		members := map[string]any{}
		for name, member := range object {
			if template, isTemplate := member.(Template); !isTemplate || !isOfRefresh(template) {
				members[name] = member
			}
		}
		for name, template := range params {
			members[name] = template
		}
		next.JSON = &Tree{members}
	case slices.ContainsFunc(slices.Collect(maps.Values(refresh.Query)), isOfRefresh):
		next.Query = replaced(refresh.Query, params)
	default:
		next.Form = replaced(refresh.Form, params)
	}
	return next
}

// replaced returns parameters in place of those of a refresh token.
func replaced(refresh, params map[string]Template) map[string]Template {
	next := maps.Clone(refresh)
	maps.DeleteFunc(next, func(_ string, t Template) bool { return isOfRefresh(t) })
	if next == nil {
		next = map[string]Template{}
	}
	maps.Copy(next, params)
	return next
}

// isOfRefresh reports whether a parameter is only that of an exchange of a refresh token.
func isOfRefresh(t Template) bool {
	return slices.Contains(t.Names(), "refresh_token") || slices.Contains(t.Names(), "scope")
}

// Consent implements provider.Consenter.
func (c *Client) Consent() provider.Consent {
	if c.Authorization == nil {
		return nil
	}
	return &consent{c: c}
}

// A consent is the consent to a Client. It is for one caller at a time.
type consent struct {
	c *Client

	// issuerKeys verify ID tokens; nil until they are read. sendsIssuer is what the metadata with them says.
	issuerKeys  oidc.KeySet
	sendsIssuer bool
}

// IsMissing implements provider.Consent.
func (a *consent) IsMissing() bool { return a.c.Refresh == "" }

// IdentifiesPerson implements provider.Consent. The request is then one of OpenID Connect.
func (a *consent) IdentifiesPerson() bool {
	return a.c.Authorization.OpenID != "" && slices.Contains(a.c.Authorization.Scopes, "openid")
}

// URL implements provider.Consent.
func (a *consent) URL(ctx context.Context, r provider.ConsentRequest) (string, error) {
	endpoint := a.c.Authorization.URL
	if endpoint == "" {
		endpoints, err := a.c.Server.resolveEndpoints(ctx, a.c.HTTP)
		if err != nil {
			return "", err
		}
		if endpoint = endpoints.Authorization; endpoint == "" {
			return "", provider.Errorf(provider.Invalid, "the issuer's metadata has no authorization endpoint; set authorization_url if there is one")
		}
	}
	u, err := url.Parse(endpoint)
	if err != nil {
		return "", provider.Errorf(provider.Invalid, "authorization_url: not a valid URL")
	}
	values := a.c.values("")
	query := u.Query()
	extra, err := fillAll(a.c.Authorization.Query, values)
	if err != nil {
		return "", err
	}
	for name, texts := range extra {
		query[name] = texts
	}
	challenge := sha256.Sum256([]byte(r.CodeVerifier))
	for name, text := range map[string]string{
		"response_type": "code", "client_id": textOf(values["client_id"], nil), "redirect_uri": r.RedirectURI, "state": r.State,
		"scope": textOf(a.c.Authorization.Scopes, values), "code_challenge_method": "S256", "code_challenge": base64.RawURLEncoding.EncodeToString(challenge[:]),
	} {
		query.Set(name, text)
		if text == "" {
			query.Del(name)
		}
	}
	query.Del("nonce")
	if a.IdentifiesPerson() {
		query.Set("nonce", r.Nonce)
	}
	u.RawQuery = query.Encode()
	return u.String(), nil
}

// idToken is the name in an answer's Extra of the ID token, which readers do not get.
const idToken = "id_token"

// Redeem implements provider.Consent.
func (a *consent) Redeem(ctx context.Context, r provider.ConsentRequest, code, issuer string) (*provider.Answer, provider.Person, error) {
	if err := a.readMetadata(ctx); err != nil {
		return nil, nil, err
	}
	if err := a.checkIssuer(ctx, issuer); err != nil {
		return nil, nil, err
	}
	return a.redeem(ctx, a.c.Authorization.Code, Values{"code": code, "redirect_uri": r.RedirectURI, "code_verifier": r.CodeVerifier}, r.Nonce)
}

// readMetadata reads what an exchange of a code needs, since the code is lost once it is sent.
func (a *consent) readMetadata(ctx context.Context) error {
	err := a.readKeys(ctx)
	if err == nil {
		_, err = a.c.resolveEndpoints(ctx, provider.Grant{})
	}
	var e *provider.Error
	if errors.As(err, &e) {
		next := *e
		next.NotConsidered = true
		return &next
	}
	return err
}

// redeem sends a request that yields the refresh token, once, and verifies the ID token, after readMetadata.
// secrets are the values of the placeholders.
func (a *consent) redeem(ctx context.Context, request Request, secrets Values, nonce string) (*provider.Answer, provider.Person, error) {
	redeeming := *a.c
	redeeming.Authorization, redeeming.Again, redeeming.Before = nil, nil, nil
	redeeming.Refresh, redeeming.isCode = "", true
	redeeming.Request = request
	redeeming.Values, redeeming.Secrets = Values{}, append(slices.Clone(a.c.Secrets), a.c.Secret)
	maps.Copy(redeeming.Values, a.c.Values)
	for name, value := range secrets {
		redeeming.Values[name] = value
		if name != "redirect_uri" {
			redeeming.Secrets = append(redeeming.Secrets, textOf(value, nil))
		}
	}
	redeeming.Reading.Extra = map[string]string{idToken: "/" + idToken}
	maps.Copy(redeeming.Reading.Extra, a.c.Reading.Extra)
	answer, err := redeeming.Exchange(ctx, provider.Grant{})
	if err != nil {
		return nil, nil, err
	}
	signed := answer.Extra[idToken]
	if a.c.Reading.Extra[idToken] == "" {
		delete(answer.Extra, idToken)
	}
	if provider.Replacement(answer.RefreshToken, "") == "" {
		return nil, nil, provider.Errorf(provider.InvalidResponse, "the vendor returned no usable refresh token; request one, by a scope such as offline_access or as the vendor's documentation says")
	}
	if !a.IdentifiesPerson() {
		return answer, nil, nil
	}
	hidden := slices.Concat(redeeming.Secrets, []string{answer.AccessToken, answer.RefreshToken, signed})
	person, err := a.verify(ctx, signed, nonce)
	if err != nil {
		return nil, nil, provider.Masked(ctx, err, hidden...)
	}
	for name, value := range person {
		if slices.ContainsFunc(hidden, func(secret string) bool { return secret != "" && strings.Contains(string(value), secret) }) {
			delete(person, name)
		}
	}
	return answer, person, nil
}

// checkIssuer compares the iss with which the browser returned (RFC 9207 §2.4). It must not be missing if the
// metadata says that the issuer sends it: the response would be of another vendor.
func (a *consent) checkIssuer(ctx context.Context, issuer string) error {
	known := a.c.Authorization.OpenID
	switch {
	case known == "" || issuer == known:
		return nil
	case issuer != "":
		return provider.Errorf(provider.InvalidResponse, "the response is from another issuer (iss): expected %.100q, found %.100q", known, issuer)
	}
	endpoints, err := a.c.Server.resolveEndpoints(ctx, a.c.HTTP)
	if err != nil {
		return err
	}
	if a.sendsIssuer || endpoints.sendsIssuer {
		return provider.Errorf(provider.InvalidResponse, "the response does not say from which issuer it is (iss), although the metadata of %.100q says that its responses do", known)
	}
	return nil
}

// maxIDToken is the longest ID token, in bytes.
const maxIDToken = 32 << 10

// verify checks an ID token by the vendor's clock (OpenID Connect Core §3.1.3.7), and returns its claims.
func (a *consent) verify(ctx context.Context, signed, nonce string) (provider.Person, error) {
	if signed == "" || len(signed) > maxIDToken {
		return nil, provider.Errorf(provider.InvalidResponse, "the vendor returned no ID token, although the scope has openid")
	}
	verifier := oidc.NewVerifier(a.c.Authorization.OpenID, a.issuerKeys, &oidc.Config{
		ClientID:             textOf(a.c.values("")["client_id"], nil),
		SupportedSigningAlgs: []string{oidc.RS256, oidc.RS384, oidc.RS512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.EdDSA},
		Now:                  func() time.Time { return time.Now().Add(a.c.vendorAhead(a.tokenURL(ctx))) },
	})
	token, err := verifier.Verify(ctx, signed)
	if err != nil {
		return nil, provider.Errorf(provider.InvalidResponse, "the vendor's ID token cannot be verified: %.200s", err)
	}
	if token.Nonce != nonce {
		return nil, provider.Errorf(provider.InvalidResponse, "the vendor's ID token is for another request (nonce)")
	}
	var person provider.Person
	if err := token.Claims(&person); err != nil {
		return nil, provider.Errorf(provider.InvalidResponse, "the vendor's ID token has no claims")
	}
	return person, nil
}

// tokenURL returns the token endpoint, whose clock is known; "" if that is not known.
func (a *consent) tokenURL(ctx context.Context) string {
	endpoints, err := a.c.Server.resolveEndpoints(ctx, a.c.HTTP)
	if err != nil {
		return ""
	}
	return endpoints.Token
}

// readKeys reads the keys with which the issuer signs (OpenID Connect Discovery §4), unless they are known or
// not needed.
func (a *consent) readKeys(ctx context.Context) error {
	if !a.IdentifiesPerson() || a.issuerKeys != nil {
		return nil
	}
	issuer := a.c.Authorization.OpenID
	var metadata struct {
		Issuer      provider.Text `json:"issuer"`
		Keys        provider.Text `json:"jwks_uri"`
		SendsIssuer statedTrue    `json:"authorization_response_iss_parameter_supported"`
	}
	if err := a.get(ctx, strings.TrimSuffix(issuer, "/")+"/.well-known/openid-configuration", &metadata); err != nil {
		return err
	}
	if string(metadata.Issuer) != issuer {
		return provider.Errorf(provider.InvalidResponse, "issuer: expected %.100q in the metadata, found %.100q", issuer, metadata.Issuer)
	}
	if err := provider.CheckURL("jwks_uri", string(metadata.Keys)); err != nil {
		return provider.Errorf(provider.InvalidResponse, "the issuer's metadata has no usable keys: %s", err)
	}
	var keys provider.KeySet
	if err := a.get(ctx, string(metadata.Keys), &keys); err != nil {
		return err
	}
	a.issuerKeys, a.sendsIssuer = &oidc.StaticKeySet{PublicKeys: keys}, bool(metadata.SendsIssuer)
	return nil
}

// get reads a public document of the issuer.
func (a *consent) get(ctx context.Context, at string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return provider.Errorf(provider.Invalid, "issuer: not a valid URL for a request")
	}
	req.Header.Set("Accept", "application/json")
	reply, err := a.c.HTTP.Do(req)
	if err != nil {
		return metadataError(err)
	}
	return reply.Decode(into)
}
