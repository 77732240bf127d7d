package tokenbroker

import (
	"context"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/metrics"
)

func (b *backend) pathMetrics() []*framework.Path {
	return []*framework.Path{{
		Pattern:      "metrics$",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix},
		Fields: map[string]*framework.FieldSchema{
			"names": {
				Type:          framework.TypeString,
				Query:         true,
				Default:       namesAttention,
				Description:   "Which credentials have series of their own: attention (only those that need it: rejected, unusable, failing, unsaved, consent required, a rotation that fails or is overdue, or close to an expiry) or all. The totals count all credentials in any case.",
				AllowedValues: []any{namesAttention, namesAll},
				DisplayAttrs:  &framework.DisplayAttributes{Name: "Names"},
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback: b.metricsRead,
				Summary:  "Read the metrics of this mount as OpenMetrics text, without secrets.",
				// Only the active node has the metrics of exchanges.
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				DisplayAttrs:                &framework.DisplayAttributes{OperationSuffix: "metrics"},
				Responses: map[int][]framework.Response{
					http.StatusOK: {{Description: "OK", MediaType: metrics.ContentType()}},
				},
			},
		},
		HelpSynopsis:    "Read the metrics of this mount.",
		HelpDescription: withExample(metricsHelpDescription, "vault read -format=raw kensho/metrics"),
	}}
}

// The values of the field names.
const (
	namesAttention = "attention"
	namesAll       = "all"
)

func (b *backend) metricsRead(_ context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	names := d.Get("names").(string)
	if names != namesAttention && names != namesAll {
		return logical.ErrorResponse("names: must be %s or %s", namesAttention, namesAll), nil
	}
	text, err := b.metrics.Text(names == namesAll)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{
		logical.HTTPStatusCode:  http.StatusOK,
		logical.HTTPContentType: metrics.ContentType(),
		logical.HTTPRawBody:     text,
	}}, nil
}

const metricsHelpDescription = `
The response is OpenMetrics text. Prometheus scrapes it with a Vault token as the bearer
token. On the command line, use vault read -format=raw.

Counters start at zero with the plugin's process. Gauges show the current state: totals of all
credentials, and series of those that need attention. With names=all, each credential has its
series. After a start, a credential appears once it has been read, or within a minute; if there
are many, the state unread counts those that the engine has yet to read.
`
