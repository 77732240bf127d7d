package vendorsim

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// assertionLeeway is how far the clock of who signs may be off.
const assertionLeeway = time.Minute

// strictAge is how old an assertion may be by Conduct.StrictDates.
const strictAge = 10 * time.Second

// signatures are the algorithms that a server knows.
var signatures = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// Reasons to refuse an assertion that any caller may give: the operator's mistake, or
// his clock's.
var (
	errForeignKey       = errors.New("the key is none of the client's")
	errForeignAlgorithm = errors.New("the client's assertions are signed otherwise")

	// errUnknownAlgorithm is the caller's own.
	errUnknownAlgorithm = errors.New("alg is none that the server knows")
)

// parseAssertion checks of a signed JWT what RFC 7523 §3 asks of every one: who has
// made it, for whom, and when. The refusal's code is left open.
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
	// More than one audience leaves open whose it is: RFC 7523 §3 has the server's.
	audience, err := claims.GetAudience()
	if err != nil || len(audience) != 1 {
		return OAuthClient{}, nil, oauthViolation("", "the assertion must have one aud")
	}
	if accepted := audiences(client); !slices.Contains(accepted, audience[0]) {
		return OAuthClient{}, nil, oauthRefusal("", "the assertion's aud is %s, and must be %s", audience[0], strings.Join(accepted, " or "))
	}
	return client, claims, nil
}

// key is what the signature of an assertion is checked by.
func (c OAuthClient) key(token *jwt.Token) (any, error) {
	algorithm := token.Method.Alg()
	if !slices.Contains(signatures, algorithm) {
		return nil, errUnknownAlgorithm
	}
	if len(c.Algorithms) > 0 && !slices.Contains(c.Algorithms, algorithm) {
		return nil, errForeignAlgorithm
	}
	id, _ := token.Header["kid"].(string)
	key, known := c.Keys[id]
	if !known {
		return nil, fmt.Errorf("%w: kid is %q", errForeignKey, id)
	}
	return key, nil
}

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

// checkTimes is for what the caller alone decides: that there is an iat, which Google
// asks for, and how far on exp is, an hour at the most for Google and Okta.
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
		return time.Time{}, errors.New("exp must be at most 60 minutes on")
	}
	return iat.Time, nil
}

// checkDates is for vendors that are strict about when an assertion was issued.
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
