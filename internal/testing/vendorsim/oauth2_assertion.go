package vendorsim

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// assertionLeeway is the tolerated difference between the signer's clock and the server's.
const assertionLeeway = time.Minute

// strictAge is the maximum age of an assertion with Conduct.StrictDates.
const strictAge = 10 * time.Second

// signatures are the signature algorithms that all servers support.
var signatures = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

var (
	// A wrong configuration causes these errors, so they are not violations.
	errForeignKey       = errors.New("the client has no such key")
	errForeignAlgorithm = errors.New("the client must not use this alg")

	// errUnknownAlgorithm is a violation: no configuration should cause it.
	errUnknownAlgorithm = errors.New("the server does not support this alg")
)

// parseAssertion verifies a signed JWT as RFC 7523 §3 requires of every assertion: its issuer,
// signature, audience and times. The caller sets the code of a returned error.
func (s *Sim) parseAssertion(a *authServer, assertion string, audiences func(OAuthClient) []string) (OAuthClient, jwt.MapClaims, *oauthAnswer) {
	var client OAuthClient
	claims := jwt.MapClaims{}
	parser := jwt.NewParser(
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithTimeFunc(s.now), jwt.WithLeeway(assertionLeeway),
	)
	_, err := parser.ParseWithClaims(assertion, claims, func(token *jwt.Token) (any, error) {
		issuer, _ := claims["iss"].(string)
		var known bool
		if client, known = a.clients[issuer]; !known {
			return nil, errUnknownClient
		}
		return client.key(token)
	})
	switch {
	case err == nil:
	case mayHappen(err):
		return OAuthClient{}, nil, oauthRefusal("", "the assertion: %s", err)
	default:
		return OAuthClient{}, nil, oauthViolation("", "the assertion: %s", err)
	}
	issued, err := checkTimes(claims)
	if err != nil {
		return OAuthClient{}, nil, oauthViolation("", "the assertion: %s", err)
	}
	if err := s.checkDates(issued); err != nil {
		return OAuthClient{}, nil, oauthRefusal("", "the assertion: %s", err)
	}
	// RFC 7523 §3 requires an aud that identifies this server. With several values, the
	// assertion would be valid at other servers too.
	audience, err := claims.GetAudience()
	if err != nil || len(audience) != 1 {
		return OAuthClient{}, nil, oauthViolation("", "the assertion must have one aud")
	}
	if accepted := audiences(client); !slices.Contains(accepted, audience[0]) {
		return OAuthClient{}, nil, oauthRefusal("", "the assertion's aud is %s, but must be %s", audience[0], strings.Join(accepted, " or "))
	}
	return client, claims, nil
}

// key returns the key that verifies the signature of an assertion.
func (c OAuthClient) key(token *jwt.Token) (any, error) {
	algorithm := token.Method.Alg()
	if !slices.Contains(signatures, algorithm) {
		return nil, errUnknownAlgorithm
	}
	if len(c.Algorithms) > 0 && !slices.Contains(c.Algorithms, algorithm) {
		return nil, errForeignAlgorithm
	}
	if c.keyOf != nil {
		return c.keyOf(token)
	}
	for name, value := range c.AssertionHeaders {
		if token.Header[name] != value {
			return nil, fmt.Errorf("%w: %s is %v", errForeignKey, name, token.Header[name])
		}
	}
	id, _ := token.Header["kid"].(string)
	key, known := c.Keys[id]
	if len(c.Nodes) > 0 {
		key, known = c.published(id)
	}
	if !known {
		return nil, fmt.Errorf("%w: kid is %q", errForeignKey, id)
	}
	return key, nil
}

// mayHappen reports whether a wrong configuration or clock can cause an error, so that it is not
// a violation.
func mayHappen(err error) bool {
	for _, reason := range []error{
		errUnknownClient, errForeignKey, errForeignAlgorithm,
		jwt.ErrTokenSignatureInvalid, jwt.ErrTokenExpired, jwt.ErrTokenNotValidYet, jwt.ErrTokenUsedBeforeIssued,
	} {
		if errors.Is(err, reason) {
			return true
		}
	}
	return false
}

// checkTimes checks the rules that do not depend on clocks: iat is present, which Google
// requires, and exp is at most an hour after it, as Google and Okta require. It returns iat.
func checkTimes(claims jwt.MapClaims) (issued time.Time, err error) {
	iat, err := claims.GetIssuedAt()
	if err != nil || iat == nil {
		return time.Time{}, errors.New("iat is missing")
	}
	exp, err := claims.GetExpirationTime()
	if err != nil {
		return time.Time{}, err
	}
	if exp.Sub(iat.Time) > maxAssertion {
		return time.Time{}, errors.New("exp must be at most 60 minutes after iat")
	}
	return iat.Time, nil
}

// checkDates checks the age of an assertion with Conduct.StrictDates.
func (s *Sim) checkDates(issued time.Time) error {
	age := s.now().Sub(issued)
	switch {
	case !s.conduct.StrictDates:
		return nil
	case age < 0:
		return jwt.ErrTokenUsedBeforeIssued
	case age > strictAge:
		return jwt.ErrTokenExpired
	}
	return nil
}
