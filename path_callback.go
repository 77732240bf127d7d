package tokenbroker

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"html/template"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/credential"
)

// callbackPath is the path to which the browser of a person who consents returns. It is not authenticated:
// only the state parameter decides.
const callbackPath = "callback"

func (b *backend) pathCallback() *framework.Path {
	fields := map[string]*framework.FieldSchema{}
	for name, description := range map[string]string{
		"state": "State parameter of the authorization URL.", "code": "Code of the vendor.", "iss": "Issuer of the response (RFC 9207).",
		"error": "Error of the vendor.", "error_description": "More about the error.",
	} {
		fields[name] = &framework.FieldSchema{Type: framework.TypeString, Description: description, Query: true, DisplayAttrs: &framework.DisplayAttributes{Name: name}}
	}
	return &framework.Path{
		Pattern:      callbackPath + "$",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix},
		Fields:       fields,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:                    b.callback,
				Summary:                     "End a person's consent, and answer the browser with a page.",
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				Responses:                   map[int][]framework.Response{200: {{Description: "OK", MediaType: "text/html"}}},
				DisplayAttrs:                &framework.DisplayAttributes{OperationVerb: "return", OperationSuffix: "from-consent"},
			},
		},
		HelpSynopsis:    "The vendor sends the browser of a person who consents to this path.",
		HelpDescription: "Not authenticated, as browsers have no token of Vault. The state parameter of authorize/<name> decides which credential gets the refresh token. It is valid once, for ten minutes.",
	}
}

// An explanation says what became of a consent, and what to do: on the page, and in an error.
type explanation struct {
	status      int
	title, next string
	short, fix  string
}

const newLink = "begin another consent"

// explanations are the outcomes of a consent that yields no token.
var explanations = map[credential.ConsentReason]explanation{
	credential.ReasonUnknown:     {http.StatusBadRequest, "This link is not valid", "Ask for a new link: vault write <mount>/authorize/<name>. Only the latest link of a credential is valid.", "the state is not that of the latest consent", newLink},
	credential.ReasonUsed:        {http.StatusConflict, "This link was used already", "If the credential is not connected, ask for a new link.", "the URL was used already", newLink},
	credential.ReasonExpired:     {http.StatusGone, "This link has expired", "A link is valid for ten minutes. Ask for a new one.", "the consent has expired", newLink},
	credential.ReasonChanged:     {http.StatusConflict, "The credential was changed in the meantime", "Nothing was stored. Ask for a new link.", "the credential was changed in the meantime", newLink},
	credential.ReasonRefused:     {http.StatusForbidden, "Consent was not given", "Nothing was changed. If this was a mistake, ask for a new link.", "the consent was refused", newLink},
	credential.ReasonFailed:      {http.StatusBadGateway, "The vendor did not issue a token", "Nothing was stored. Show this page to the operator of Vault, and ask for a new link.", "the vendor did not issue a token", newLink},
	credential.ReasonUnsaved:     {http.StatusServiceUnavailable, "Vault could not store the token yet", "Vault keeps trying. You can reload this page in a minute; do not consent again.", "storage has not accepted the refresh token yet", "the engine keeps trying"},
	credential.ReasonUnavailable: {http.StatusServiceUnavailable, "The vendor is not available", "Nothing was changed. Reload this page at the time below, within ten minutes of the beginning. If it is too late by then, ask for a new link.", "the vendor is unavailable", "give the same URL again then"},
	credential.ReasonNoToken:     {http.StatusBadGateway, "The consent is stored, but there is no token yet", "Do not consent again. Show this page to the operator of Vault, who can find the cause.", "the refresh token is stored, but the vendor issues no usable token", "do not begin another consent"},
	credential.ReasonBusy:        {http.StatusServiceUnavailable, "Vault is busy", "Nothing was changed. Reload this page in a minute.", "the credential is busy with another request", "give the same URL again"},
}

// connected is the outcome of a consent that yields a token.
var connected = explanation{status: http.StatusOK, title: "Connected", next: "You can close this window."}

func (b *backend) callback(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	text := func(name string) string { return d.Get(name).(string) }
	name, err := b.finishConsent(ctx, req.Storage, credential.ConsentAnswer{
		State: text("state"), Code: text("code"), Issuer: text("iss"), Error: text("error"), ErrorDescription: text("error_description"),
	})
	about, reason := connected, ""
	var failed *credential.ConsentError
	switch {
	case errors.As(err, &failed):
		about, name = explanations[failed.Reason], failed.Name
		if failed.Err != nil {
			reason = failed.Err.Error()
		}
	case err != nil:
		about = explanation{status: http.StatusServiceUnavailable, title: "Vault cannot read its storage", next: "Nothing was changed. Reload this page in a minute."}
	}
	return callbackPage(about, req.MountPoint, name, reason)
}

//go:embed internal/page/callback.html
var callbackHTML string

//go:embed internal/page/callback.css
var callbackCSS string

var callbackTemplate = template.Must(template.New("callback").Parse(callbackHTML))

// contentPolicy allows the page's own style and nothing else.
var contentPolicy = func() string {
	digest := sha256.Sum256([]byte(callbackCSS))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(digest[:]) + "'; base-uri 'none'; form-action 'none'"
}()

// callbackPage returns the page that the browser shows. It has no script, loads nothing, and quotes what
// others have said only as text.
func callbackPage(about explanation, mount, name, reason string) (*logical.Response, error) {
	var page bytes.Buffer
	if err := callbackTemplate.Execute(&page, map[string]any{
		"Policy": contentPolicy, "Style": template.CSS(callbackCSS), // #nosec G203 -- it is embedded
		"Title": about.title, "Next": about.next, "Mount": mount, "Name": name, "Reason": reason, "OK": about.status == http.StatusOK,
	}); err != nil {
		return nil, err
	}
	return &logical.Response{
		Headers: map[string][]string{ // if the mount's allowed_response_headers has them
			"Content-Security-Policy": {contentPolicy + "; frame-ancestors 'none'"}, "Referrer-Policy": {"no-referrer"}, "X-Content-Type-Options": {"nosniff"},
		},
		Data: map[string]any{
			logical.HTTPStatusCode: about.status, logical.HTTPContentType: "text/html; charset=utf-8",
			logical.HTTPRawBody: page.Bytes(), logical.HTTPCacheControlHeader: "no-store",
		},
	}, nil
}

// onlyTexts returns the parameters of a browser's URL that are there once. Vendors add parameters of their
// own, which are ignored.
func onlyTexts(path *framework.Path, data map[string]any) map[string]any {
	texts := map[string]any{}
	for name := range path.Fields {
		if text, isText := data[name].(string); isText {
			texts[name] = text
		}
	}
	return texts
}
