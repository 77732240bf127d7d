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

func (b *backend) metricsRead(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
	text, err := b.metrics.Text()
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

Counters start at zero with the plugin's process. Gauges show the current state of each
credential. After a start, a credential appears once it has been read, or within a minute.
`
