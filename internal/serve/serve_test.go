package serve

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/plugin"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// served serves a backend with one path in this process, and returns it as a Vault server sees it:
// through gRPC.
func served(t *testing.T, read framework.OperationFunc) logical.Backend {
	t.Helper()
	factory := func(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
		b := &framework.Backend{BackendType: logical.TypeLogical, Paths: []*framework.Path{{
			Pattern: ".*", Callbacks: map[logical.Operation]framework.OperationFunc{logical.ReadOperation: read},
		}}}
		return b, b.Setup(ctx, conf)
	}
	reattach := make(chan *goplugin.ReattachConfig, 1)
	closed := make(chan struct{})
	ctx, stop := context.WithCancel(context.Background())
	configuration := config(factory, nil)
	configuration.Logger = hclog.NewNullLogger()
	configuration.Test = &goplugin.ServeTestConfig{Context: ctx, ReattachConfigCh: reattach, CloseCh: closed}
	go goplugin.Serve(configuration)
	client := goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig: plugin.HandshakeConfig, Plugins: goplugin.PluginSet{plugin.BackendPluginName: &plugin.GRPCBackendPlugin{}},
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC}, Reattach: <-reattach, Logger: hclog.NewNullLogger(),
	})
	t.Cleanup(func() {
		client.Kill()
		stop()
		<-closed
	})
	protocol, err := client.Client()
	require.NoError(t, err)
	dispensed, err := protocol.Dispense(plugin.BackendPluginName)
	require.NoError(t, err)
	b := dispensed.(logical.Backend)
	require.NoError(t, b.Setup(t.Context(), &logical.BackendConfig{
		Logger: hclog.NewNullLogger(), System: &logical.StaticSystemView{}, StorageView: &logical.InmemStorage{},
	}))
	return b
}

func readOf(path string) *logical.Request {
	return &logical.Request{Operation: logical.ReadOperation, Path: path, Storage: &logical.InmemStorage{}}
}

// Guarantee 12: readers of one name do not wait for those of another.
func TestGuarantee12MoreSlowReadsThanWorkersDelayNoOthers(t *testing.T) {
	release := make(chan struct{})
	var waiting sync.WaitGroup
	waiting.Add(3 * workers)
	b := served(t, func(_ context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
		if req.Path == "slow" {
			waiting.Done()
			<-release
		}
		return &logical.Response{Data: map[string]any{"path": req.Path}}, nil
	})
	failures := make(chan error, 3*workers)
	for range 3 * workers {
		go func() {
			_, err := b.HandleRequest(context.Background(), readOf("slow"))
			failures <- err
		}()
	}
	waiting.Wait() // all of them run at once
	resp, err := b.HandleRequest(t.Context(), readOf("fast"))
	require.NoError(t, err)
	assert.Equal(t, "fast", resp.Data["path"])
	close(release)
	for range 3 * workers {
		require.NoError(t, <-failures)
	}
}

func TestMessagesMayBeLargerThanTheWindow(t *testing.T) {
	b := served(t, func(_ context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
		return &logical.Response{Data: map[string]any{"length": len(req.Data["text"].(string)), "text": req.Data["text"]}}, nil
	})
	request := readOf("large")
	text := strings.Repeat("x", 8*window)
	request.Data = map[string]any{"text": text}
	resp, err := b.HandleRequest(t.Context(), request)
	require.NoError(t, err)
	assert.Equal(t, text, resp.Data["text"])
}
