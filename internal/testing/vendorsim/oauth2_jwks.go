package vendorsim

import (
	"crypto"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// A KeyCache is what one node of a server has of a client's jwks_uri. It obeys max-age as strictly as RFC 9111
// allows: it never fetches the keys before that has passed, also not for an unknown kid.
type KeyCache struct {
	// Fetch returns the answer at the jwks_uri.
	Fetch func() (status int, cacheControl string, body []byte)

	keys    map[string]crypto.PublicKey
	expires time.Time
	fetches int
}

// Fetches returns how often the keys were fetched.
func (c *KeyCache) Fetches() int { return c.fetches }

// Keys returns the keys by key ID. It fetches them if they have expired.
func (c *KeyCache) Keys() map[string]crypto.PublicKey {
	if time.Now().Before(c.expires) {
		return c.keys
	}
	c.fetches++
	status, cacheControl, body := c.Fetch()
	var set jose.JSONWebKeySet
	if status != http.StatusOK || json.Unmarshal(body, &set) != nil {
		return nil
	}
	c.keys = map[string]crypto.PublicKey{}
	for _, key := range set.Keys {
		if key.Valid() && key.IsPublic() && key.Use == "sig" {
			c.keys[key.KeyID] = key.Key
		}
	}
	_, maxAge, _ := strings.Cut(cacheControl, "max-age=")
	seconds, _ := strconv.Atoi(maxAge)
	c.expires = time.Now().Add(time.Duration(seconds) * time.Second)
	return c.keys
}

// published returns a key of the client that all nodes have.
func (c OAuthClient) published(id string) (key crypto.PublicKey, isKnown bool) {
	for _, node := range c.Nodes {
		if key, isKnown = node.Keys()[id]; !isKnown {
			return nil, false
		}
	}
	return key, isKnown
}
