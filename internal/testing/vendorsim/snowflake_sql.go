package vendorsim

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-uuid"
)

const (
	snowflakeAccount = "acme-main"
	snowflakeHost    = snowflakeAccount + ".snowflakecomputing.com"
	snowflakePath    = "/api/v2/statements"

	// snowflakeRole has MODIFY PROGRAMMATIC AUTHENTICATION METHODS on each user, and each user has it.
	snowflakeRole = "KEY_ROTATOR"

	snowflakeSlot = "RSA_PUBLIC_KEY" // the first of two
)

var snowflakeAlter = regexp.MustCompile(`^ALTER USER ("(?:[^"]|"")+"|[A-Za-z_][A-Za-z0-9_$]*) (?:SET (RSA_PUBLIC_KEY|RSA_PUBLIC_KEY_2) ?= ?'([A-Za-z0-9+/=]+)'|UNSET (RSA_PUBLIC_KEY|RSA_PUBLIC_KEY_2))$`)

func (s *Sim) addSnowflake(a *account) map[string]any {
	key, text := s.firstKey(a.kind, newRSA)
	a.id = strings.ToUpper(a.short("u_", "id"))
	s.first(a, newSnowflakeKey(snowflakeSlot, key.Public()))
	s.rotating.hosts[snowflakeHost] = s.snowflakeSQL
	return map[string]any{
		"account": snowflakeAccount, "user": strings.ToLower(a.id), "private_key": text, "key_slot": snowflakeSlot, "rotation_role": snowflakeRole,
	}
}

func newSnowflakeKey(slot string, key crypto.PublicKey) *heldSecret {
	return &heldSecret{id: slot, name: slot, key: key, kid: fingerprint(key)}
}

// fingerprint returns what DESCRIBE USER shows of a public key.
func fingerprint(key crypto.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		panic(err) // of a parsed key
	}
	sum := sha256.Sum256(der)
	return "SHA256:" + base64.StdEncoding.EncodeToString(sum[:])
}

// snowflakeUser returns the user that a JWT claims to be, with the fingerprint of its key; nil if there is none.
func (s *Sim) snowflakeUser(subject string) *account {
	return s.accountWith(func(a *account) bool { return strings.ToUpper(snowflakeAccount)+"."+a.id == subject }, "snowflake")
}

// snowflakeKeys returns the keys that verify the JWTs of a user.
func (s *Sim) snowflakeKeys(subject string) []*rsa.PublicKey {
	var keys []*rsa.PublicKey
	if key := s.snowflakeUsers[subject]; key != nil {
		keys = append(keys, key)
	}
	if a := s.snowflakeUser(subject); a != nil {
		for _, h := range a.stored() {
			keys = append(keys, h.key.(*rsa.PublicKey))
		}
	}
	return keys
}

type snowflakeStatement struct {
	Statement string `json:"statement"`
	Timeout   int    `json:"timeout"`
	Role      string `json:"role"`
}

// snowflakeRefusal returns a failure of the SQL API.
func snowflakeRefusal(status int, code, state, message string) reply {
	return reply{status: status, body: map[string]string{"code": code, "sqlState": state, "message": message}}
}

// snowflakeSQL is POST /api/v2/statements (https://docs.snowflake.com/developer-guide/sql-api/reference).
func (s *Sim) snowflakeSQL(path string, r *http.Request) reply {
	if path != snowflakePath {
		return violation(http.StatusNotFound, "unknown URL")
	}
	const tokenType = "X-Snowflake-Authorization-Token-Type"
	var given snowflakeStatement
	if wrong := wrongRequest(r, http.MethodPost, []string{"Authorization", tokenType}, []string{"requestId", "retry", "async"}, &given); wrong != nil {
		return *wrong
	}
	token := bearer(r)
	switch {
	case token == "" || !slices.Contains([]string{"", "KEYPAIR_JWT"}, r.Header.Get(tokenType)):
		return violation(http.StatusUnauthorized, "Authorization must be a Bearer, and its type KEYPAIR_JWT")
	case r.Header.Get("User-Agent") == "" || r.Header.Get("Accept") == "":
		return violation(http.StatusBadRequest, "User-Agent and Accept must be set")
	}
	s.lookAt(token)
	caller := s.snowflakeUser(s.about[token].Subject)
	switch {
	case caller == nil || !s.now().Before(s.issued[token]):
		return snowflakeRefusal(http.StatusUnauthorized, "390144", "08001", "JWT token is invalid.")
	case given.Role != "" && given.Role != snowflakeRole && given.Role != "PUBLIC":
		return snowflakeRefusal(http.StatusForbidden, "390189", "08001", "Role specified in the connect string does not exist or not authorized.")
	case given.Statement == "SELECT CURRENT_USER()":
		return snowflakeResult("CURRENT_USER()", caller.id)
	}
	words := snowflakeAlter.FindStringSubmatch(given.Statement)
	if words == nil {
		return violation(http.StatusUnprocessableEntity, "unknown statement")
	}
	name := strings.ToUpper(words[1])
	if quoted := strings.Trim(words[1], `"`); quoted != words[1] {
		name = strings.ReplaceAll(quoted, `""`, `"`)
	}
	user := s.accountWith(func(a *account) bool { return a.id == name }, "snowflake")
	if user == nil || given.Role != snowflakeRole {
		return snowflakeRefusal(http.StatusUnprocessableEntity, "003001", "42501", "SQL access control error: Insufficient privileges to operate on user '"+name+"'.")
	}
	if words[4] != "" {
		s.snowflakeUnset(user, words[4])
		return snowflakeResult("status", "Statement executed successfully.")
	}
	der, err := base64.StdEncoding.DecodeString(words[3])
	if err != nil {
		return violation(http.StatusUnprocessableEntity, "the key must be one line of base64")
	}
	key, isRSA := parsedRSA(der)
	if !isRSA {
		return snowflakeRefusal(http.StatusUnprocessableEntity, "002222", "22023", "New public key rejected by current policy.")
	}
	if present := user.with(words[2]); present == nil || !isSameKey(present.key, key) {
		s.snowflakeUnset(user, words[2])
		user.hold(newSnowflakeKey(words[2], key), s.now())
	}
	return snowflakeResult("status", "Statement executed successfully.")
}

// parsedRSA returns an RSA key of at least 2048 bits.
func parsedRSA(der []byte) (*rsa.PublicKey, bool) {
	parsed, err := x509.ParsePKIXPublicKey(der)
	key, isRSA := parsed.(*rsa.PublicKey)
	return key, err == nil && isRSA && key.N.BitLen() >= 2048
}

// snowflakeUnset removes the key of a slot, if it has one. The JWTs that it signed are refused then.
func (s *Sim) snowflakeUnset(a *account, slot string) {
	h := a.with(slot)
	if h == nil {
		return
	}
	s.remove(h)
	for token, about := range s.about {
		if s.snowflakeUser(about.Subject) == a && about.key == h.kid {
			s.issued[token] = time.Time{}
		}
	}
}

// snowflakeResult returns the result of a statement with one row and one column.
func snowflakeResult(column, value string) reply {
	handle, err := uuid.GenerateUUID()
	if err != nil {
		panic(err)
	}
	return ok(map[string]any{
		"code": "090001", "sqlState": "00000", "message": "Statement executed successfully.", "statementHandle": handle,
		"statementStatusUrl": snowflakePath + "/" + handle,
		"resultSetMetaData":  map[string]any{"numRows": 1, "rowType": []any{map[string]any{"name": column, "type": "text"}}},
		"data":               [][]string{{value}},
	})
}
