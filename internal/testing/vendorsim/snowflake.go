package vendorsim

import (
	"crypto/rsa"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// maxSnowflakeToken is the time after iat at which Snowflake refuses a JWT, whatever its exp.
const maxSnowflakeToken = time.Hour

// AddSnowflakeUser adds a user of Snowflake whose tokens are JWTs that it signs itself. The vendor gets
// no request for them: one counts as issued when it is first looked at.
func (s *Sim) AddSnowflakeUser(account, user string, key *rsa.PublicKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snowflakeUsers[strings.ToUpper(account+"."+user)] = key
}

// lookAt records a token that its reader has signed and that a vendor accepts now.
func (s *Sim) lookAt(token string) {
	if _, isKnown := s.issued[token]; isKnown {
		return
	}
	var (
		claims jwt.RegisteredClaims
		signer string
	)
	parsed, err := jwt.NewParser(jwt.WithValidMethods([]string{"RS256"}), jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithTimeFunc(s.now)).
		ParseWithClaims(token, &claims, func(*jwt.Token) (any, error) {
			for _, key := range s.snowflakeKeys(claims.Subject) { // the fingerprint in iss says which
				if signer = fingerprint(key); claims.Issuer == claims.Subject+"."+signer {
					return key, nil
				}
			}
			return nil, errUnknownClient
		})
	if err != nil || !parsed.Valid || claims.IssuedAt == nil {
		return
	}
	expiry := claims.ExpiresAt.Time
	if limit := claims.IssuedAt.Add(maxSnowflakeToken); expiry.After(limit) {
		expiry = limit
	}
	s.next = About{Subject: claims.Subject, key: signer}
	s.record(token, expiry)
}
