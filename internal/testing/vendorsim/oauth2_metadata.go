package vendorsim

import (
	"net/http"
	"slices"
)

// metadata returns the metadata of a server (RFC 8414 §2), with URLs that the caller can use.
func (a *authServer) metadata(r *http.Request, kind string) reply {
	switch {
	case r.Method != http.MethodGet:
		return violation(http.StatusMethodNotAllowed, "must be a GET")
	case r.URL.RawQuery != "":
		return violation(http.StatusBadRequest, "must have no query")
	case !slices.Contains(a.Metadata, kind):
		return refuse(http.StatusNotFound, "not found")
	}
	methods := a.Listed
	if len(methods) == 0 {
		methods = []string{SecretBasic, SecretPost, PrivateKeyJWT, None}
	}
	body := map[string]any{
		"issuer":                                asSeen(r, a.Issuer),
		"authorization_endpoint":                asSeen(r, a.Issuer+"/oauth2/authorize"),
		"jwks_uri":                              asSeen(r, a.Issuer+"/oauth2/keys"),
		"device_authorization_endpoint":         asSeen(r, a.Issuer+"/oauth2/device_authorization"),
		"response_types_supported":              []string{"code"},
		"token_endpoint":                        asSeen(r, a.TokenURL),
		"token_endpoint_auth_methods_supported": methods,
		"token_endpoint_auth_signing_alg_values_supported": signatures,
		"authorization_response_iss_parameter_supported":   true,
		"grant_types_supported":                            []string{AuthorizationCodeGrant, RefreshTokenGrant, ClientCredentialsGrant, JWTBearerGrant, TokenExchangeGrant},
	}
	if a.RevocationURL != "" {
		body["revocation_endpoint"] = asSeen(r, a.RevocationURL)
		body["revocation_endpoint_auth_methods_supported"] = methods
	}
	return ok(body)
}
