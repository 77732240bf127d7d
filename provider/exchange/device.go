package exchange

import (
	"cmp"
	"context"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

// defaultInterval is the interval of a vendor that states none (RFC 8628 §3.2).
const defaultInterval = 5 * time.Second

// BeginDevice implements provider.Consent.
func (a *consent) BeginDevice(ctx context.Context) (*provider.Device, error) {
	endpoints, err := a.c.resolveEndpoints(ctx, provider.Grant{})
	if err != nil {
		return nil, err
	}
	endpoint := cmp.Or(a.c.Authorization.DeviceURL, endpoints.Device)
	if endpoint == "" {
		return nil, provider.Errorf(provider.Invalid, "flow: the vendor's device authorization endpoint is unknown; set device_authorization_url if there is one, or omit flow")
	}
	values := a.c.values("")
	values["scope"] = a.c.Authorization.Scopes
	request := Request{Form: map[string]Template{"scope": Placeholder("scope")}}
	style, _ := a.c.authStyles(provider.Grant{}, endpoints.tokenMethods)
	if style == SecretBasic || style == None { // some servers read only the form (RFC 8628 §3.1)
		request.Form["client_id"] = Placeholder("client_id")
	}
	reply, err := a.c.send(ctx, "device_authorization_url", endpoint, request, style, values)
	if err != nil {
		return nil, err
	}
	var given struct {
		DeviceCode provider.Text   `json:"device_code"`
		UserCode   provider.Text   `json:"user_code"`
		URI        provider.Text   `json:"verification_uri"`
		URL        provider.Text   `json:"verification_url"` // as Google has it
		Complete   provider.Text   `json:"verification_uri_complete"`
		ExpiresIn  provider.Number `json:"expires_in"`
		Interval   provider.Number `json:"interval"`
	}
	if err := reply.Decode(&given); err != nil {
		return nil, err
	}
	if reply.HasError() {
		return nil, reply.Refusal()
	}
	device := &provider.Device{
		DeviceCode: string(given.DeviceCode), UserCode: string(given.UserCode),
		VerificationURI: cmp.Or(string(given.URI), string(given.URL)), VerificationURIComplete: string(given.Complete),
		ExpiresIn: max(0, provider.Lifetime([]byte(given.ExpiresIn), time.Second)),
		Interval:  max(defaultInterval, provider.Lifetime([]byte(given.Interval), time.Second)),
	}
	isPage := func(url string) bool { return provider.CheckURL("verification_uri", url) == nil }
	if device.DeviceCode == "" || device.UserCode == "" || device.ExpiresIn == 0 || !isPage(device.VerificationURI) || device.VerificationURIComplete != "" && !isPage(device.VerificationURIComplete) {
		return nil, provider.Errorf(provider.InvalidResponse, "the vendor's response has no usable device_code, user_code, expires_in or verification_uri")
	}
	return device, nil
}

// RedeemDevice implements provider.Consent.
func (a *consent) RedeemDevice(ctx context.Context, deviceCode string) (*provider.Answer, provider.Person, error) {
	if err := a.readMetadata(ctx); err != nil {
		return nil, nil, err
	}
	return a.redeem(ctx, a.c.Authorization.Device, Values{"device_code": deviceCode}, "")
}
