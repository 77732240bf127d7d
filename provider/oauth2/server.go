package oauth2

import (
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

// A Server is an authorization server: its endpoints, or its issuer, whose metadata
// has them.
type Server struct {
	Issuer string
	Endpoints

	// Field is the operator's field that the token endpoint comes from; "" is token_url, or
	// issuer where that is set.
	Field string

	found atomic.Pointer[metadata]

	// tried is when metadata that are too old were last asked for, in Unix nanoseconds.
	tried atomic.Int64
}

const (
	// metadataAge is how old an issuer's metadata may be. Endpoints hardly ever move, and
	// whoever moves one leaves the old one in place for a while.
	metadataAge = 24 * time.Hour

	// Older ones stay in use while newer ones cannot be had. Those are asked for once in
	// staleInterval, by one caller, who waits for stalePatience.
	staleInterval = time.Minute
	stalePatience = 2 * time.Second
)

// metadata is what an issuer has published, as of a time.
type metadata struct {
	Endpoints
	time time.Time
}

// Endpoints are an authorization server's.
type Endpoints struct {
	Token      string
	Revocation string // "" if there is none

	// tokenMethods and revocationMethods are the ways for clients to authenticate that the
	// metadata list; none if they do not.
	tokenMethods, revocationMethods []string
}

// endpoints are those that are set, and those that the metadata has.
func (s *Server) endpoints(ctx context.Context, client *provider.Client) (Endpoints, error) {
	if s.Issuer == "" || s.Token != "" && s.Revocation != "" {
		return s.Endpoints, nil
	}
	found := s.found.Load()
	switch {
	case found == nil:
		endpoints, err := discover(ctx, client, s.Issuer)
		if err != nil {
			return Endpoints{}, err
		}
		found = s.publish(endpoints)
	case time.Since(found.time) > metadataAge && s.mayTry(time.Now()):
		ctx, cancel := context.WithTimeout(ctx, stalePatience)
		defer cancel()
		if endpoints, err := discover(ctx, client, s.Issuer); err == nil { // or what was published before is better than nothing
			found = s.publish(endpoints)
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

func (s *Server) publish(endpoints *Endpoints) *metadata {
	found := &metadata{*endpoints, time.Now()}
	s.found.Store(found)
	return found
}

// mayTry is whether metadata that are too old may be asked for now. It is true for one caller
// in staleInterval.
func (s *Server) mayTry(now time.Time) bool {
	last := s.tried.Load()
	since := now.Sub(time.Unix(0, last)).Abs() // whatever the clock has been set to
	return since >= staleInterval && s.tried.CompareAndSwap(last, now.UnixNano())
}

// tokenField is the field to check where the token endpoint turns out not to be one.
func (s *Server) tokenField() string {
	switch {
	case s.Field != "":
		return s.Field
	case s.Token == "":
		return "issuer"
	}
	return "token_url"
}

// revocationField is the field to check where the revocation endpoint turns out not to be
// one.
func (s *Server) revocationField() string {
	switch {
	case s.Revocation == "":
		return "issuer"
	case s.Field != "":
		return s.Field
	}
	return "revocation_url"
}

// discover reads an issuer's metadata: where OpenID Connect Discovery has it, or else where
// RFC 8414 has it, whose path some servers append to the issuer's own. Where all of them
// fail, metadata that cannot be used tell more than places where there are none.
func discover(ctx context.Context, client *provider.Client, issuer string) (*Endpoints, error) {
	u, err := url.Parse(issuer)
	if err != nil {
		return nil, provider.Errorf(provider.Invalid, "issuer: is no URL")
	}
	path := strings.TrimSuffix(u.Path, "/")
	const openID, oauth = "/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"
	var reason error
	isMissing := false
	for _, at := range slices.Compact([]string{path + openID, oauth + path, path + oauth}) {
		u.Path, u.RawPath = at, ""
		endpoints, err := fetch(ctx, client, u.String(), issuer)
		var e *provider.Error
		if err == nil || errors.As(err, &e) && e.Kind == provider.Unavailable {
			return endpoints, provider.CheckField(err, "issuer")
		}
		if missing := errors.As(err, &e) && e.WrongURL; reason == nil || isMissing && !missing {
			reason, isMissing = err, missing
		}
	}
	return nil, provider.CheckField(ofMetadata(reason), "issuer")
}

// ofMetadata is a refusal of a request for metadata, which carries no credential: what is
// refused is not that, and may pass by itself.
func ofMetadata(err error) error {
	var e *provider.Error
	if !errors.As(err, &e) || e.Kind != provider.Rejected {
		return err
	}
	next := *e
	next.Kind, next.Code, next.MayBeScope = provider.Unavailable, "", false
	next.Reason = "the issuer's metadata cannot be read: " + e.Reason
	return &next
}

func fetch(ctx context.Context, client *provider.Client, at, issuer string) (*Endpoints, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, provider.Errorf(provider.Invalid, "issuer: no request can be made of it")
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

		TokenMethods      provider.Texts `json:"token_endpoint_auth_methods_supported"`
		RevocationMethods provider.Texts `json:"revocation_endpoint_auth_methods_supported"`
	}
	if err := reply.Decode(&published); err != nil {
		return nil, err
	}
	found := &Endpoints{
		Token: string(published.Token), Revocation: string(published.Revocation),
		tokenMethods: published.TokenMethods, revocationMethods: published.RevocationMethods,
	}
	if len(found.revocationMethods) == 0 {
		found.revocationMethods = found.tokenMethods
	}
	// RFC 8414 §3.3: or the metadata is not the issuer's.
	if strings.TrimSuffix(string(published.Issuer), "/") != strings.TrimSuffix(issuer, "/") {
		return nil, provider.Errorf(provider.InvalidResponse, "issuer: expected %.100q in the metadata at %.200s, found %.100q; if that is the vendor, give it as issuer", issuer, at, published.Issuer)
	}
	if err := checkEndpoint("token_endpoint", found.Token, issuer); err != nil {
		return nil, provider.Errorf(provider.InvalidResponse, "the issuer's metadata has no token endpoint that can be used: %s", err)
	}
	if found.Revocation != "" && checkEndpoint("revocation_endpoint", found.Revocation, issuer) != nil {
		found.Revocation = ""
	}
	return found, nil
}

// checkEndpoint refuses an endpoint that would have a secret sent in the clear, or to
// another host than the operator's issuer: the metadata may change at any time, and a
// secret goes only where its writer sent it.
func checkEndpoint(field, endpoint, issuer string) error {
	if strings.HasPrefix(issuer, "https:") && !strings.HasPrefix(endpoint, "https:") {
		return provider.Errorf(provider.Invalid, "%s: must be an https URL, as the issuer is", field)
	}
	if err := provider.CheckURL(field, endpoint); err != nil {
		return err
	}
	if provider.Host(endpoint) != provider.Host(issuer) {
		return provider.Errorf(provider.Invalid, "%s: %.100q is not on the issuer's host; if secrets may go there, give it as token_url in place of issuer", field, endpoint)
	}
	return nil
}
