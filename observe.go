package tokenbroker

import (
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/broker"
)

// observer has exchanges counted, and those told of them who have subscribed.
type observer struct{ *backend }

func (o observer) Exchanged(x broker.Exchange) { o.metrics.Exchanged(x) }
func (o observer) Kept(x broker.Exchange)      { o.events.exchanged(x) }

// noteMount notes where the engine is mounted, which nothing tells but requests. Those
// that Vault makes each minute by itself do, too.
func (b *backend) noteMount(req *logical.Request) {
	if at := b.mountedAt.Load(); req.MountPoint != "" && (at == nil || *at != req.MountPoint) {
		mount := req.MountPoint
		b.mountedAt.Store(&mount)
	}
}

// Logger is where the engine logs, with the mount on each line: many share a log.
func (b *backend) Logger() hclog.Logger {
	if at := b.mountedAt.Load(); at != nil {
		return b.Backend.Logger().With("mount", *at)
	}
	return b.Backend.Logger()
}

func providerNames() []string {
	names := make([]string, len(providers))
	for i, p := range providers {
		names[i] = p.Name()
	}
	return names
}
