package exchange

import (
	"errors"
	"fmt"
	"net/url"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

const (
	// assertionLifetime is within the limits of the vendors: 3 minutes at Salesforce, 5 at
	// Auth0, an hour at most others.
	assertionLifetime = 2 * time.Minute

	// assertionAge is how far the iat is before the lower bound of the vendor's clock. Some
	// vendors refuse an iat that is ahead of their clock by any fraction of a second.
	assertionAge = 3 * time.Second

	// strictestAge is the age at which the strictest vendors refuse an assertion.
	strictestAge = 10 * time.Second

	// maxDated is how far the iat may differ from our own clock. The Date header, from which
	// the vendor's clock is known, is not authenticated.
	maxDated = 5 * time.Minute
)

// issueTime returns the iat of an assertion for an endpoint.
func (c *Client) issueTime(endpoint string) time.Time {
	return time.Now().Add(c.vendorAhead(endpoint) - assertionAge)
}

// vendorAhead returns the lower bound of how far the vendor's clock is ahead of ours, for the
// dates of assertions. It is zero if the clock is unknown or too far off.
func (c *Client) vendorAhead(endpoint string) time.Duration {
	clock := c.clockOf(endpoint)
	least, _ := clock.Bounds()
	if !clock.Believed() || (least-assertionAge).Abs() > maxDated {
		return 0
	}
	return least
}

// isMisdated reports whether the iat may be the reason of a refusal, and another one would
// be accepted. ahead is the value of vendorAhead that the refused assertion was dated with.
func (c *Client) isMisdated(endpoint string, ahead time.Duration) bool {
	now := c.vendorAhead(endpoint)
	if c.Signer == nil || now == ahead {
		return false
	}
	least, most := c.clockOf(endpoint).Bounds()
	iat := ahead - assertionAge
	return iat > least || iat < most-strictestAge && now > ahead
}

// withSkew adds the difference of the clocks to a rejection, if it is too large for the dates
// of assertions to account for and so may be the reason.
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
