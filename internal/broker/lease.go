package broker

import (
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

const (
	// maxMargin and marginPart make the margin that a lease keeps before its
	// token's death: the smaller of 30 s and 5 % of the life that is left.
	maxMargin  = 30 * time.Second
	marginPart = 20

	// minLease is the shortest lease: Vault takes one of zero seconds for the
	// mount's default, and Vault Agent for none.
	minLease = time.Second

	// boundaryWait is how long before a boundary a reader waits for it, to get a
	// token of the next hour and not one that dies in its hands.
	boundaryWait = 10 * time.Second
)

// A Reading is a token and for how long it may be leased.
type Reading struct {
	provider.Token
	Provider string

	// TTL is the longest lease that ends before the token may be dead less the
	// margin, in whole seconds, at least one.
	TTL time.Duration
}

// leaseTTL is the longest lease of a token at a time, zero if there is none.
func leaseTTL(t provider.Token, now time.Time) time.Duration {
	left := t.ExpireTime.Sub(now)
	ttl := (left - min(maxMargin, left/marginPart)).Truncate(time.Second)
	if ttl < minLease {
		return 0
	}
	return ttl
}

// dying is whether a token is so near its boundary that a later one is worth
// waiting for.
func dying(t provider.Token, now time.Time) bool {
	return !t.Boundary.IsZero() && t.Boundary.Sub(now) <= boundaryWait
}

// read is what a reader gets from memory; nil if an exchange is needed.
func read(c *Credential, s *State, now time.Time) *Reading {
	if c == nil || s == nil {
		return nil
	}
	token, ok := s.Tokens[ownScope]
	if !ok || dying(token, now) {
		return nil
	}
	return lease(c, token, now)
}

func lease(c *Credential, token provider.Token, now time.Time) *Reading {
	ttl := leaseTTL(token, now)
	if ttl == 0 {
		return nil
	}
	return &Reading{Token: token, Provider: c.Provider, TTL: ttl}
}
