package oauth2

import (
	"errors"
	"fmt"
	"net/url"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

const (
	// assertionLifetime is inside the 5 minutes that Auth0 allows, the 3 that Salesforce
	// does, and the hour of most others.
	assertionLifetime = 2 * time.Minute

	// assertionAge is how old an assertion is made, by the lower bound of the vendor's
	// clock: some vendors refuse an iat that their clock has not reached, by any fraction
	// of a second.
	assertionAge = 3 * time.Second

	// strictestAge is the age at which the strictest vendors refuse an assertion.
	strictestAge = 10 * time.Second

	// maxDated is how far off our own clock an assertion may be timesMovedForward: the header that
	// the vendor's clock is known by is not signed by anybody.
	maxDated = 5 * time.Minute
)

// issueTime is the iat of an assertion for an endpoint.
func (c *Client) issueTime(endpoint string) time.Time {
	return time.Now().Add(c.vendorAhead(endpoint) - assertionAge)
}

// vendorAhead is how far the vendor's clock is ahead of ours, at least, as far as
// assertions are timesMovedForward by it; zero if it is not known, or too far off.
func (c *Client) vendorAhead(endpoint string) time.Duration {
	clock := c.clockOf(endpoint)
	least, _ := clock.Bounds()
	if !clock.Believed() || (least-assertionAge).Abs() > maxDated {
		return 0
	}
	return least
}

// isMisdated reports whether the vendor may have refused an assertion for its iat, which
// was timesMovedForward by a clock so far ahead, and would take one by its clock as it is known now.
func (c *Client) isMisdated(endpoint string, ahead time.Duration) bool {
	now := c.vendorAhead(endpoint)
	if c.Signer == nil || now == ahead {
		return false
	}
	least, most := c.clockOf(endpoint).Bounds()
	iat := ahead - assertionAge
	return iat > least || iat < most-strictestAge && now > ahead
}

// withSkew adds to a rejection that the vendor's clock is further off than assertions
// are timesMovedForward, which may be why.
func (c *Client) withSkew(err error) error {
	var e *provider.Error
	if c.Signer == nil || !errors.As(err, &e) || e.Kind != provider.Rejected || e.Clock.Skew().Abs() <= maxDated-assertionAge {
		return err
	}
	next := *e
	next.Reason += fmt.Sprintf(" (its clock and this server's differ by %s)", e.Clock.Skew().Abs())
	return &next
}

func (c *Client) clockOf(endpoint string) provider.Clock {
	u, err := url.Parse(endpoint)
	if err != nil {
		return provider.Clock{}
	}
	return c.HTTP.Clock(u.Host)
}

func isRejected(err error) bool {
	var e *provider.Error
	return errors.As(err, &e) && e.Kind == provider.Rejected
}
