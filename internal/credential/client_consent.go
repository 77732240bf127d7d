package credential

import (
	"context"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/provider"
)

// A consentWithFormer is a consent that uses the client's former authentication if the vendor refuses the
// present one. Such a refusal does not use up a code.
type consentWithFormer struct {
	provider.Consent
	former provider.Consent
}

// consentOfClient returns how a person consents to a credential; nil if that is not possible.
func consentOfClient(c *broker.Credential) provider.Consent {
	consent := provider.ConsentOf(c.Vendor)
	for _, former := range c.Formers {
		if other := provider.ConsentOf(former.Vendor); other != nil && consent != nil {
			consent = consentWithFormer{consent, other}
		}
	}
	return consent
}

// Redeem implements provider.Consent.
func (c consentWithFormer) Redeem(ctx context.Context, r provider.ConsentRequest, code, issuer string) (*provider.Answer, provider.Person, error) {
	answer, person, err := c.Consent.Redeem(ctx, r, code, issuer)
	if broker.RefusesClient(err) {
		if other, otherPerson, otherErr := c.former.Redeem(ctx, r, code, issuer); !broker.RefusesClient(otherErr) {
			return other, otherPerson, otherErr
		}
	}
	return answer, person, err
}

// BeginDevice implements provider.Consent.
func (c consentWithFormer) BeginDevice(ctx context.Context) (*provider.Device, error) {
	device, err := c.Consent.BeginDevice(ctx)
	if broker.RefusesClient(err) {
		if other, otherErr := c.former.BeginDevice(ctx); otherErr == nil {
			return other, nil
		}
	}
	return device, err
}

// RedeemDevice implements provider.Consent.
func (c consentWithFormer) RedeemDevice(ctx context.Context, deviceCode string) (*provider.Answer, provider.Person, error) {
	answer, person, err := c.Consent.RedeemDevice(ctx, deviceCode)
	if broker.RefusesClient(err) {
		if other, otherPerson, otherErr := c.former.RedeemDevice(ctx, deviceCode); !broker.RefusesClient(otherErr) {
			return other, otherPerson, otherErr
		}
	}
	return answer, person, err
}
