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
				Summary:  "Read the metrics of this mount, as OpenMetrics text, without any secret.",
				// The active node does the work that they are of.
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				DisplayAttrs:                &framework.DisplayAttributes{OperationSuffix: "metrics"},
				Responses: map[int][]framework.Response{
					http.StatusOK: {{Description: "OK", MediaType: metrics.ContentType()}},
				},
			},
		},
		HelpSynopsis:    "Read the metrics of this mount.",
		HelpDescription: metricsHelpDescription,
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
OpenMetrics text, for Prometheus to scrape with a Vault token as its bearer token. By
hand, vault read -format=raw shows it.

Counters are those of the plugin's process, and begin at zero when it starts. What is
told of each credential is how it is doing now; after a start, a credential is there
once it has been read, or within a minute.
`
