package vendorsim

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
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
	if _, isKnown := s.issued[token]; isKnown || len(s.snowflakeUsers) == 0 {
		return
	}
	var (
		claims jwt.RegisteredClaims
		key    *rsa.PublicKey
	)
	parsed, err := jwt.NewParser(jwt.WithValidMethods([]string{"RS256"}), jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithTimeFunc(s.now)).
		ParseWithClaims(token, &claims, func(*jwt.Token) (any, error) {
			if key = s.snowflakeUsers[claims.Subject]; key == nil {
				return nil, errUnknownClient
			}
			return key, nil
		})
	if err != nil || !parsed.Valid || claims.IssuedAt == nil {
		return
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		panic(err)
	}
	fingerprint := sha256.Sum256(der)
	if claims.Issuer != claims.Subject+".SHA256:"+base64.StdEncoding.EncodeToString(fingerprint[:]) {
		return
	}
	expiry := claims.ExpiresAt.Time
	if limit := claims.IssuedAt.Add(maxSnowflakeToken); expiry.After(limit) {
		expiry = limit
	}
	s.record(token, expiry)
}
