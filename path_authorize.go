package tokenbroker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/mdp/qrterminal/v3"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/credential"
	"vault-plugin-secrets-tokenbroker/provider"
)

func (b *backend) pathAuthorize() *framework.Path {
	fields := nameField()
	fields["claims"] = &framework.FieldSchema{
		Type:         framework.TypeCommaStringSlice,
		Description:  "Claims of the ID token to keep and show, such as email. Only for vendors that speak OpenID Connect, with the scope openid.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Claims"},
	}
	fields["flow"] = &framework.FieldSchema{
		Type:          framework.TypeString,
		Description:   "How the person consents: browser, in a browser that returns to callback; or device, with a code on a device of the person's own (RFC 8628).",
		Default:       "browser",
		AllowedValues: provider.Allowed([]string{"browser", "device"}),
		DisplayAttrs:  &framework.DisplayAttributes{Name: "Flow"},
	}
	fields["redirect"] = &framework.FieldSchema{
		Type:         framework.TypeString,
		Description:  "URL to which the person's browser was sent back, copied from its address bar, if it cannot reach this Vault.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Redirect", Sensitive: true},
	}
	return &framework.Path{
		Pattern:      "authorize/" + apipath.NamePattern("name"),
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix},
		Fields:       fields,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: &framework.PathOperation{
				Callback:                    b.authorizeWrite,
				Summary:                     "Begin a person's consent to a credential, or end it with the URL to which the browser was sent back.",
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				Responses: map[int][]framework.Response{
					200: {{Description: "OK", Fields: authorizeFields()}},
				},
				DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "authorize", OperationSuffix: "credential"},
			},
			logical.ReadOperation: &framework.PathOperation{
				Callback:                    b.authorizeRead,
				Summary:                     "Read how far the consent to a credential has come.",
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				Responses: map[int][]framework.Response{
					200: {{Description: "OK", Fields: consentFields()}},
				},
				DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "read", OperationSuffix: "consent"},
			},
		},
		HelpSynopsis:    "Get a person's consent to a credential, in a browser.",
		HelpDescription: withExample(authorizeHelpDescription, "vault write api/authorize/alice@example.com claims=email", "vault read api/authorize/alice@example.com"),
	}
}

// authorizeFields returns the response fields of a write: of a consent that begins, or of one that ends.
func authorizeFields() map[string]*framework.FieldSchema {
	fields := consentFields()
	for _, schema := range fields {
		schema.Required = false
	}
	fields["authorization_url"] = &framework.FieldSchema{Type: framework.TypeString, Description: "URL to open in the browser of the person who consents. It is valid once."}
	fields["qr_code"] = &framework.FieldSchema{Type: framework.TypeString, Description: "verification_uri_complete, or else verification_uri, as a QR code of text."}
	fields["expires_in"] = &framework.FieldSchema{Type: framework.TypeDurationSecond, Description: "Seconds until the URL expires."}
	return fields
}

// consentFields returns the response fields of a consent.
func consentFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"state":                     {Type: framework.TypeString, Required: true, Description: "That of the latest attempt: pending, refused (by the person or the vendor), failed, expired or unsaved (storage has not accepted the refresh token yet). connected, if the refresh token in use is of a consent since; required, if there is none."},
		"expire_time":               {Type: framework.TypeTime, Description: "When a pending consent expires."},
		"user_code":                 {Type: framework.TypeString, Description: "Code that the person enters at verification_uri, while a consent on another device is pending."},
		"verification_uri":          {Type: framework.TypeString, Description: "Page of the vendor that the person opens on any device."},
		"verification_uri_complete": {Type: framework.TypeString, Description: "The same page with the code, if the vendor has one."},
		"consent_time":              {Type: framework.TypeTime, Description: "When a person consented to the refresh token in use."},
		"claims":                    {Type: framework.TypeMap, Description: "Claims about who consented to the refresh token in use. A claim that is not a text is JSON."},
		"scope":                     {Type: framework.TypeStringSlice, Description: "Scope that the vendor granted, if it says so."},
		"error":                     {Type: framework.TypeString, Description: "Why the latest attempt yielded nothing, or storage does not accept its result."},
	}
}

func (b *backend) authorizeWrite(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	if redirect, _ := d.Get("redirect").(string); redirect != "" {
		return b.authorizeFinish(ctx, req, name, redirect)
	}
	claims, _ := d.Get("claims").([]string)
	switch flow := d.Get("flow").(string); flow {
	case "browser":
	case "device":
		return b.authorizeDevice(ctx, req, name, claims)
	default:
		return logical.ErrorResponse("flow: unknown value %q (allowed: browser, device)", flow), nil
	}
	started, err := b.store.StartConsent(ctx, req.Storage, name, claims)
	if err != nil {
		return credentialFailure(ctx, req.Storage, name, err)
	}
	return &logical.Response{Data: map[string]any{
		"state": string(credential.ConsentPending), "authorization_url": started.URL,
		"expires_in": int64(time.Until(started.ExpireTime).Seconds()), "expire_time": broker.FormatTime(started.ExpireTime),
	}}, nil
}

// authorizeDevice begins a consent on another device.
func (b *backend) authorizeDevice(ctx context.Context, req *logical.Request, name string, claims []string) (*logical.Response, error) {
	c, err := b.store.StartDevice(ctx, req.Storage, name, claims)
	var paused *credential.PauseError
	if errors.As(err, &paused) {
		return nil, logical.CodedError(http.StatusTooManyRequests, paused.Error())
	}
	if err != nil {
		return credentialFailure(ctx, req.Storage, name, err)
	}
	data := consentData(credential.ConsentStatus{State: c.State, Attempt: c})
	data["expires_in"] = int64(time.Until(c.ExpireTime).Seconds())
	var code strings.Builder
	qrterminal.GenerateHalfBlock(cmp.Or(c.Device.VerificationURIComplete, c.Device.VerificationURI), qrterminal.L, &code)
	data["qr_code"] = code.String()
	return &logical.Response{Data: data}, nil
}

// authorizeFinish ends a consent with the URL to which the browser was sent back.
func (b *backend) authorizeFinish(ctx context.Context, req *logical.Request, name, redirect string) (*logical.Response, error) {
	u, err := url.Parse(strings.TrimSpace(redirect))
	if err != nil || u.Query().Get("state") == "" {
		return logical.ErrorResponse("redirect: give the whole URL from the browser's address bar, with its query (?code=…&state=…)"), nil
	}
	query := u.Query()
	if credential.NameOfState(query.Get("state")) != name {
		return logical.ErrorResponse("redirect: the URL does not belong to a consent to %q; give it to the name for which the link was made", name), nil
	}
	_, err = b.finishConsent(ctx, req.Storage, credential.ConsentAnswer{
		State: query.Get("state"), Code: query.Get("code"), Issuer: query.Get("iss"),
		Error: query.Get("error"), ErrorDescription: query.Get("error_description"),
	})
	var failed *credential.ConsentError
	if errors.As(err, &failed) {
		about := explanations[failed.Reason]
		text := "redirect: " + about.short + "; " + about.fix
		if failed.Err != nil {
			text = "redirect: " + about.short + ": " + failed.Err.Error() + "; " + about.fix
		}
		return nil, logical.CodedError(about.status, text)
	}
	if err != nil {
		return credentialFailure(ctx, req.Storage, name, err)
	}
	return b.consentResponse(ctx, req.Storage, name)
}

// finishConsent ends a consent of a browser that has returned, and counts it.
func (b *backend) finishConsent(ctx context.Context, s logical.Storage, a credential.ConsentAnswer) (string, error) {
	name, err := b.store.FinishConsent(ctx, s, a)
	b.consentEnded(name, err)
	return name, err
}

// consentEnded counts and logs the end of a consent.
func (b *backend) consentEnded(name string, err error) {
	result := "connected"
	var failed *credential.ConsentError
	switch {
	case errors.As(err, &failed):
		result = string(failed.Reason)
	case err != nil:
		result = "storage"
	}
	b.metrics.ConsentEnded(result)
	switch {
	case err == nil:
		b.Logger().Info("a person has consented", "name", name)
	case failed != nil && failed.Reason == credential.ReasonNoToken:
		b.Logger().Warn("a person has consented, but the vendor issues no usable token", "name", failed.Name, "error", failed.Err)
	case failed != nil && failed.Err != nil: // anybody can cause the others, so they are only counted
		b.Logger().Warn("a consent failed", "name", failed.Name, "error", err)
	}
}

func (b *backend) authorizeRead(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	resp, err := b.consentResponse(ctx, req.Storage, name)
	if err != nil {
		return credentialFailure(ctx, req.Storage, name, err)
	}
	return resp, nil
}

// consentResponse returns the consent to a credential; nil if there was none and none is required.
func (b *backend) consentResponse(ctx context.Context, s logical.Storage, name string) (*logical.Response, error) {
	required, err := b.store.RequiresConsent(ctx, s, name)
	if err != nil {
		return nil, err
	}
	c, err := b.store.ReadConsent(ctx, s, name)
	switch {
	case err != nil:
		return nil, err
	case c.State == "" && !required:
		return nil, nil
	}
	return &logical.Response{Data: consentData(c)}, nil
}

// consentData returns the response data of the consents to a credential.
func consentData(c credential.ConsentStatus) map[string]any {
	data := map[string]any{"state": cmp.Or(string(c.State), "required")}
	if c.Error != "" {
		data["error"] = c.Error
	}
	if attempt := c.Attempt; attempt != nil && c.State == credential.ConsentPending {
		data["expire_time"] = broker.FormatTime(attempt.ExpireTime)
		if attempt.Device != nil {
			data["user_code"], data["verification_uri"] = attempt.Device.UserCode, attempt.Device.VerificationURI
			if attempt.Device.VerificationURIComplete != "" {
				data["verification_uri_complete"] = attempt.Device.VerificationURIComplete
			}
		}
	}
	if c.Consented == nil {
		return data
	}
	data["consent_time"] = broker.FormatTime(c.Consented.Time)
	if len(c.Consented.Scope) > 0 {
		data["scope"] = c.Consented.Scope
	}
	if len(c.Consented.Claims) > 0 {
		claims := map[string]any{}
		for name, value := range c.Consented.Claims {
			var text string
			if json.Unmarshal(value, &text) != nil {
				text = string(value) // of another type, as JSON
			}
			claims[name] = text
		}
		data["claims"] = claims
	}
	return data
}

const authorizeHelpDescription = `
For a credential whose vendor issues a refresh token once a person has consented. A write
returns authorization_url: open it in the browser of that person, who logs in at the
vendor and consents. The vendor sends the browser back to callback, which stores the
refresh token. The URL is valid once, for ten minutes, and only while the credential is
not changed. Another write makes it invalid.

redirect_uri of the credential must be the URL of callback as browsers reach it, and be
registered at the vendor. If no browser can reach this Vault, give the URL to which the
browser was sent back as redirect, or use flow=device: the person enters user_code at
verification_uri on any device, and the engine asks the vendor until the person has
decided.

A consent to a credential that has a refresh token replaces it, once the vendor has
issued the new one.
`
