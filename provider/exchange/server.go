package exchange

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

// A Server is an authorization server, given by its endpoints or by its issuer, whose metadata
// lists them. It is safe for concurrent use.
type Server struct {
	Issuer string
	Endpoints

	// IsMutual is whether the client authenticates with a certificate, for which metadata may list other
	// endpoints (RFC 8705 §5).
	IsMutual bool

	// Field is the operator's field that determines the token endpoint, for errors; "" for
	// token_url or issuer.
	Field string

	found atomic.Pointer[metadata]

	// tried is when stale metadata was last requested again, in Unix nanoseconds.
	tried atomic.Int64
}

const (
	// metadataAge is the age at which metadata is stale. Endpoints rarely move, and a vendor
	// that moves one keeps the old one for a while.
	metadataAge = 24 * time.Hour

	// Stale metadata stays in use if it cannot be read again. One caller per staleInterval
	// tries to, and waits for at most stalePatience.
	staleInterval = time.Minute
	stalePatience = 2 * time.Second
)

// metadata has an issuer's endpoints and the time at which they were read.
type metadata struct {
	Endpoints
	time time.Time
}

// Endpoints are the endpoints of an authorization server.
type Endpoints struct {
	Token      string
	Revocation string // "" if there is none

	// Authorization is where a person consents; "" if there is none. It receives no secret, so it may be on
	// any host.
	Authorization string

	// Device is where a consent on another device begins; "" if there is none. The client authenticates
	// there.
	Device string

	// sendsIssuer is whether the metadata says that the browser returns with the issuer (RFC 9207 §3).
	sendsIssuer bool

	// tokenMethods and revocationMethods are the styles of client authentication that the
	// metadata lists, if any.
	tokenMethods, revocationMethods []string
}

// resolveEndpoints returns the endpoints that are set, and otherwise those of the issuer's metadata,
// which it reads if necessary.
func (s *Server) resolveEndpoints(ctx context.Context, client *provider.Client) (Endpoints, error) {
	if s.Issuer == "" || s.Token != "" && s.Revocation != "" {
		return s.Endpoints, nil
	}
	found := s.found.Load()
	switch {
	case found == nil:
		endpoints, err := discover(ctx, client, s.Issuer, s.IsMutual)
		if err != nil {
			return Endpoints{}, err
		}
		found = s.store(endpoints)
	case time.Since(found.time) > metadataAge && s.mayTry(time.Now()):
		ctx, cancel := context.WithTimeout(ctx, stalePatience)
		defer cancel()
		if endpoints, err := discover(ctx, client, s.Issuer, s.IsMutual); err == nil {
			found = s.store(endpoints)
		}
	}
	all := found.Endpoints
	if s.Token != "" {
		all.Token = s.Token
	}
	if s.Revocation != "" {
		all.Revocation = s.Revocation
	}
	return all, nil
}

func (s *Server) store(endpoints *Endpoints) *metadata {
	found := &metadata{*endpoints, time.Now()}
	s.found.Store(found)
	return found
}

// mayTry reports whether the caller may read stale metadata again. It is true for one caller
// per staleInterval.
func (s *Server) mayTry(now time.Time) bool {
	last := s.tried.Load()
	since := now.Sub(time.Unix(0, last)).Abs() // the wall clock may be stepped back
	return since >= staleInterval && s.tried.CompareAndSwap(last, now.UnixNano())
}

// tokenField returns the field to check if the token endpoint seems wrong.
func (s *Server) tokenField() string {
	switch {
	case s.Field != "":
		return s.Field
	case s.Token == "":
		return "issuer"
	}
	return "token_url"
}

// revocationField returns the field to check if the revocation endpoint seems wrong.
func (s *Server) revocationField() string {
	switch {
	case s.Revocation == "":
		return "issuer"
	case s.Field != "":
		return s.Field
	}
	return "revocation_url"
}

// discover reads an issuer's metadata from the location of OpenID Connect Discovery or else
// that of RFC 8414, whose path some servers append to the issuer's own. If all fail, it
// prefers the error of unusable metadata to that of a location without any.
func discover(ctx context.Context, client *provider.Client, issuer string, isMutual bool) (*Endpoints, error) {
	u, err := url.Parse(issuer)
	if err != nil {
		return nil, provider.Errorf(provider.Invalid, "issuer: not a URL; use the form https://host")
	}
	path := strings.TrimSuffix(u.Path, "/")
	const openID, oauth = "/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"
	var reason error
	isMissing := false
	for _, at := range slices.Compact([]string{path + openID, oauth + path, path + oauth}) {
		u.Path, u.RawPath = at, ""
		endpoints, err := fetch(ctx, client, u.String(), issuer, isMutual)
		var e *provider.Error
		if err == nil || errors.As(err, &e) && e.Kind == provider.Unavailable {
			return endpoints, provider.CheckField(err, "issuer")
		}
		if missing := errors.As(err, &e) && e.WrongURL; reason == nil || isMissing && !missing {
			reason, isMissing = err, missing
		}
	}
	return nil, provider.CheckField(metadataError(reason), "issuer")
}

// metadataError turns a rejection of a request for metadata into an outage: the request has no
// credential that could be rejected.
func metadataError(err error) error {
	var e *provider.Error
	if !errors.As(err, &e) || e.Kind != provider.Rejected {
		return err
	}
	next := *e
	next.Kind, next.Code, next.MayBeScope = provider.Unavailable, "", false
	next.Reason = "cannot read the issuer's metadata: " + e.Reason
	return &next
}

// fetch reads an issuer's metadata at one location.
func fetch(ctx context.Context, client *provider.Client, at, issuer string, isMutual bool) (*Endpoints, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, provider.Errorf(provider.Invalid, "issuer: not a valid URL for a request")
	}
	req.Header.Set("Accept", "application/json")
	reply, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	var published struct {
		Issuer     provider.Text `json:"issuer"`
		Token      provider.Text `json:"token_endpoint"`
		Revocation provider.Text `json:"revocation_endpoint"`

		Authorization provider.Text `json:"authorization_endpoint"`
		Device        provider.Text `json:"device_authorization_endpoint"`
		SendsIssuer   statedTrue    `json:"authorization_response_iss_parameter_supported"`

		Mutual struct {
			Token      provider.Text `json:"token_endpoint"`
			Revocation provider.Text `json:"revocation_endpoint"`
		} `json:"mtls_endpoint_aliases"`

		TokenMethods      provider.Texts `json:"token_endpoint_auth_methods_supported"`
		RevocationMethods provider.Texts `json:"revocation_endpoint_auth_methods_supported"`
	}
	if err := reply.Decode(&published); err != nil {
		return nil, err
	}
	if isMutual {
		published.Token = cmp.Or(published.Mutual.Token, published.Token)
		published.Revocation = cmp.Or(published.Mutual.Revocation, published.Revocation)
	}
	found := &Endpoints{
		Token: string(published.Token), Revocation: string(published.Revocation),
		tokenMethods: published.TokenMethods, revocationMethods: published.RevocationMethods,
		sendsIssuer: bool(published.SendsIssuer),
	}
	if provider.CheckURL("authorization_endpoint", string(published.Authorization)) == nil {
		found.Authorization = string(published.Authorization)
	}
	if checkEndpoint("device_authorization_endpoint", string(published.Device), issuer) == nil {
		found.Device = string(published.Device)
	}
	if len(found.revocationMethods) == 0 {
		found.revocationMethods = found.tokenMethods
	}
	// RFC 8414 §3.3: the metadata of another issuer must not be used.
	if strings.TrimSuffix(string(published.Issuer), "/") != strings.TrimSuffix(issuer, "/") {
		return nil, provider.Errorf(provider.InvalidResponse, "issuer: expected %.100q in the metadata at %.200s, found %.100q; if the latter is correct, set issuer to it", issuer, at, published.Issuer)
	}
	if err := checkEndpoint("token_endpoint", found.Token, issuer); err != nil {
		return nil, provider.Errorf(provider.InvalidResponse, "the issuer's metadata has no usable token endpoint: %s", err)
	}
	if found.Revocation != "" && checkEndpoint("revocation_endpoint", found.Revocation, issuer) != nil {
		found.Revocation = ""
	}
	return found, nil
}

// statedTrue is whether a member of the metadata is true.
type statedTrue bool

// UnmarshalJSON implements json.Unmarshaler. A value of another type counts as false.
func (t *statedTrue) UnmarshalJSON(raw []byte) error {
	*t = string(raw) == "true"
	return nil
}

// checkEndpoint returns an error if a secret must not be sent to an endpoint of the metadata.
// The endpoint must be on the issuer's host, and https if the issuer is. The metadata may
// change at any time, and a stored secret goes only where its writer sent it (guarantee 13).
func checkEndpoint(field, endpoint, issuer string) error {
	if strings.HasPrefix(issuer, "https:") && !strings.HasPrefix(endpoint, "https:") {
		return provider.Errorf(provider.Invalid, "%s: must be an https URL, like the issuer", field)
	}
	if err := provider.CheckURL(field, endpoint); err != nil {
		return err
	}
	if provider.Host(endpoint) != provider.Host(issuer) {
		return provider.Errorf(provider.Invalid, "%s: %.100q is not on the issuer's host; to allow it, set token_url instead of issuer", field, endpoint)
	}
	return nil
}
