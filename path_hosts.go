package tokenbroker

import (
	"context"
	"net/url"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/credential"
	"vault-plugin-secrets-tokenbroker/internal/pacing"
	"vault-plugin-secrets-tokenbroker/provider"
)

func (b *backend) pathHosts() []*framework.Path {
	write := &framework.PathOperation{
		Callback:                    b.hostsWrite,
		Summary:                     "Limit the requests to a host.",
		ForwardPerformanceStandby:   true,
		ForwardPerformanceSecondary: true,
		DisplayAttrs:                &framework.DisplayAttributes{OperationVerb: "write", OperationSuffix: "host"},
	}
	return []*framework.Path{
		{
			Pattern:      "hosts/?$",
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: &framework.PathOperation{
					Callback:                    b.hostsList,
					Summary:                     "List the hosts with a limit, and those that need attention.",
					ForwardPerformanceStandby:   true,
					ForwardPerformanceSecondary: true,
					DisplayAttrs:                &framework.DisplayAttributes{OperationSuffix: "hosts"},
				},
			},
			HelpSynopsis:    "List the hosts with a limit, and those that are paused or down.",
			HelpDescription: withExample("key_info holds the state of each host, as hosts/<host> has it.", "vault list -detailed kensho/hosts"),
		},
		{
			Pattern:      "hosts/" + apipath.HostPattern("host") + "$",
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix},
			Fields:       hostFields(),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.CreateOperation: write,
				logical.UpdateOperation: write,
				logical.ReadOperation: &framework.PathOperation{
					Callback: b.hostsRead,
					Summary:  "Read how the requests to a host are paced.",
					// Only the active node sends requests.
					ForwardPerformanceStandby:   true,
					ForwardPerformanceSecondary: true,
					Responses: map[int][]framework.Response{
						200: {{Description: "OK", Fields: hostResponse()}},
					},
					DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "read", OperationSuffix: "host"},
				},
				logical.DeleteOperation: &framework.PathOperation{
					Callback:                    b.hostsDelete,
					Summary:                     "Delete the limit of a host. The engine learns its limit from then on.",
					ForwardPerformanceStandby:   true,
					ForwardPerformanceSecondary: true,
					DisplayAttrs:                &framework.DisplayAttributes{OperationVerb: "delete", OperationSuffix: "host"},
				},
			},
			ExistenceCheck:  b.hostsExists,
			HelpSynopsis:    "Read or limit the requests to one host of a vendor.",
			HelpDescription: withExample(hostsHelpDescription, "vault write kensho/hosts/link-streaming.kensho.com requests_per_second=50", "vault read kensho/hosts/link-streaming.kensho.com"),
		},
	}
}

func hostFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"host": {
			Type:         framework.TypeString,
			Description:  "Host of a vendor's URLs, with the port unless it is 443.",
			Required:     true,
			DisplayAttrs: &framework.DisplayAttributes{Name: "Host", Identifier: true},
		},
		"requests_per_second": {
			Type:         framework.TypeFloat,
			Description:  "Maximum number of requests that the mount sends to the host each second. It takes precedence over a limit in the definition of the vendor. If the host takes fewer, the engine sends fewer.",
			Required:     true,
			DisplayAttrs: &framework.DisplayAttributes{Name: "Requests per second"},
		},
	}
}

// hostResponse returns the response fields of a host.
func hostResponse() map[string]*framework.FieldSchema {
	text := func(t framework.FieldType, description string) *framework.FieldSchema {
		return &framework.FieldSchema{Type: t, Description: description}
	}
	return map[string]*framework.FieldSchema{
		"state":               {Type: framework.TypeString, Description: "ok, limited (a limit is stated or was learned), paused (the host has turned requests away, and asks for a pause) or down (it does not answer).", Required: true},
		"requests_per_second": text(framework.TypeFloat, "The limit that an operator has written. Absent if none is."),
		"current_limit":       text(framework.TypeFloat, "Requests that are sent each second at most: what an operator or the definition of the vendor states, or what the host was found to take if that is less. Absent if the host has no known limit."),
		"waiting":             {Type: framework.TypeInt, Description: "Number of requests that wait for their turn.", Required: true},
		"throttled":           {Type: framework.TypeInt, Description: "Number of requests that the host has turned away with status 429 since the start.", Required: true},
		"unsent":              {Type: framework.TypeInt, Description: "Number of requests since the start that were not sent, because their turn would have come too late or the host was down.", Required: true},
		"down_since":          text(framework.TypeTime, "Since when the host does not answer. Absent unless the state is down."),
		"next_request_time":   text(framework.TypeTime, "When the next request is sent. Absent unless the state is paused or down."),
	}
}

func (b *backend) hostsList(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	hosts, err := b.store.HostsWithLimit(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	info := map[string]any{}
	for _, host := range hosts {
		info[host] = map[string]any{"state": stateOf(b.broker.Pacer().Status(host))}
	}
	for _, s := range b.broker.Pacer().Limited() {
		info[s.Host] = map[string]any{"state": stateOf(s)}
	}
	return logical.ListResponseWithInfo(sortedKeys(info), info), nil
}

func (b *backend) hostsRead(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	host := hostOf(d)
	limit, err := b.store.HostLimit(ctx, req.Storage, host)
	if err != nil {
		return failure("", err)
	}
	s := b.broker.Pacer().Status(host)
	if limit == nil && !s.IsKnown {
		return nil, nil
	}
	data := hostData(s)
	if limit != nil {
		data["requests_per_second"] = limit.RequestsPerSecond
	}
	return &logical.Response{Data: data}, nil
}

func (b *backend) hostsWrite(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	limit, isGiven := d.GetOk("requests_per_second")
	if !isGiven {
		return logical.ErrorResponse("requests_per_second: missing"), nil
	}
	err := b.store.WriteHost(ctx, req.Storage, hostOf(d), credential.HostLimit{RequestsPerSecond: limit.(float64)})
	if err != nil {
		return failure("", err)
	}
	return nil, nil
}

func (b *backend) hostsDelete(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	return nil, b.store.DeleteHost(ctx, req.Storage, hostOf(d))
}

func (b *backend) hostsExists(ctx context.Context, req *logical.Request, d *framework.FieldData) (bool, error) {
	limit, err := b.store.HostLimit(ctx, req.Storage, hostOf(d))
	return limit != nil || err != nil, nil // hostsRead returns the error
}

func hostOf(d *framework.FieldData) string { return credential.HostName(d.Get("host").(string)) }

// stateOf returns the state of a host in a word.
func stateOf(s pacing.Status) string {
	switch {
	case s.IsDown():
		return "down"
	case !s.PauseUntil.IsZero():
		return "paused"
	case s.RequestsPerSecond > 0:
		return "limited"
	}
	return "ok"
}

func hostData(s pacing.Status) map[string]any {
	data := map[string]any{"state": stateOf(s), "waiting": s.Waiting, "throttled": s.Throttled, "unsent": s.Unsent}
	if s.RequestsPerSecond > 0 {
		data["current_limit"] = s.RequestsPerSecond
	}
	if s.IsDown() {
		data["down_since"] = broker.FormatTime(s.DownSince)
	}
	if !s.PauseUntil.IsZero() {
		data["next_request_time"] = broker.FormatNext(s.PauseUntil)
	}
	return data
}

// hostsData returns the hosts of URLs that are not ok, with what hosts/<host> has of them.
func (b *backend) hostsData(urls []string) map[string]any {
	hosts := map[string]any{}
	for _, text := range urls {
		u, err := url.Parse(text)
		if err != nil || u.Host == "" {
			continue
		}
		if s := b.broker.Pacer().Status(provider.HostOf(u)); stateOf(s) != "ok" {
			hosts[s.Host] = hostData(s)
		}
	}
	return hosts
}

const hostsHelpDescription = `
The requests of a mount to one host share a limit and a queue. The engine learns how many
requests a host takes from those that the host turns away, and from its Retry-After and
RateLimit headers. If you know the limit, write it here, so that no request is turned away
while the engine learns it. Readers who wait come first. A read whose turn would come later
than 30 seconds from now fails with status 503 and the time of its turn.

The limit is that of one mount. Mounts whose credentials share a host share its limit too,
so give each a part of it.
`
