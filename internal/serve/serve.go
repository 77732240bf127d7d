// Package serve serves the engine as a Vault plugin, with settings for many small reads.
package serve

import (
	"math"
	"os"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/vault/sdk/helper/pluginutil"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/plugin"
	"google.golang.org/grpc"
)

const (
	// workers is the number of goroutines that gRPC keeps for requests. A new goroutine starts
	// with a small stack, and growing it costs up to a seventh of a cached read. A request that
	// finds no idle worker gets a new goroutine, so that slow requests delay no others.
	workers = 16

	// window is the number of bytes that Vault may send before the plugin has read them. A fixed
	// window saves the pings with which gRPC otherwise measures the connection on each read.
	window = 1 << 20
)

// Multiplexed serves all mounts of an engine from this process until Vault stops it, as the SDK's
// plugin.ServeMultiplex does. It ends the process when Vault stops the plugin, and returns only an
// error.
func Multiplexed(factory logical.Factory, tls plugin.TLSProviderFunc) error {
	if err := pluginutil.OptionallyEnableMlock(); err != nil {
		return err
	}
	keepMinHeap()
	goplugin.Serve(config(factory, tls))
	return nil
}

// config returns the configuration of plugin.ServeMultiplex, with the gRPC server of newServer. The
// SDK has no option for that.
func config(factory logical.Factory, tls plugin.TLSProviderFunc) *goplugin.ServeConfig {
	logger := hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: os.Stderr, JSONFormat: true})
	backend := func(isMultiplexed bool) goplugin.PluginSet {
		return goplugin.PluginSet{plugin.BackendPluginName: &plugin.GRPCBackendPlugin{Factory: factory, MultiplexingSupport: isMultiplexed, Logger: logger}}
	}
	return &goplugin.ServeConfig{
		HandshakeConfig: plugin.HandshakeConfig,
		// A server that does not support multiplexing uses version 3 or 4.
		VersionedPlugins: map[int]goplugin.PluginSet{3: backend(false), 4: backend(false), 5: backend(true)},
		TLSProvider:      tls,
		Logger:           logger,
		GRPCServer:       newServer,
	}
}

// newServer returns a gRPC server. Like the SDK's, it does not limit messages: storage entries can be
// larger than gRPC's default limit.
func newServer(options []grpc.ServerOption) *grpc.Server {
	return grpc.NewServer(append(options,
		grpc.MaxRecvMsgSize(math.MaxInt32), grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.NumStreamWorkers(workers),
		grpc.StaticStreamWindowSize(window), grpc.StaticConnWindowSize(window),
	)...)
}
