package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

const (
	// engine and yardstick are the names of the plugins in Vault's catalog.
	engine    = "tokenbroker"
	yardstick = "yardstick"

	apiKey = "01-5d1f0c3a-bench"

	// writers is the number of concurrent writers that fill a mount.
	writers = 16
)

// A world is a server, with the plugins registered, and a simulated vendor.
type world struct {
	*bench
	server *vaultserver.Server
	client *api.Client
	vendor *vendorsim.Sim
	root   string // URL of all vendors
	base   string // URL of Sitecore

	closeVendor func()
}

// A starter is vaultserver.StartDev or vaultserver.StartRaft.
type starter func(ctx context.Context, binary string, log io.Writer, environ ...string) (*vaultserver.Server, error)

// in calls run with a new world, and stops the world after that. A request that a vendor does
// not document is an error.
func (b *bench) in(ctx context.Context, start starter, run func(*world) error) error {
	w, err := b.newWorld(ctx, start)
	if err != nil {
		return err
	}
	err = run(w)
	if violations := w.vendor.Violations(); len(violations) > 0 {
		err = errors.Join(err, fmt.Errorf("requests that the vendor does not document: %q", violations))
	}
	return errors.Join(err, w.stop())
}

func (b *bench) newWorld(ctx context.Context, start starter) (*world, error) {
	w := &world{bench: b, vendor: vendorsim.New()}
	w.vendor.AddAPIKey(apiKey)
	w.vendor.Forgetful()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	vendors := &http.Server{Handler: withPeerTokens(w.vendor), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = vendors.Serve(listener) }()
	w.root = "http://" + listener.Addr().String()
	w.base = vendorsim.URL(w.root, "https://api.rfksrv.com")
	w.closeVendor = func() { _ = vendors.Close() }

	if w.server, err = start(ctx, b.vault, b.log); err != nil {
		w.closeVendor()
		return nil, err
	}
	if w.client, err = w.server.Client(); err == nil {
		err = w.register(ctx, engine, b.engine)
		if b.yardstick != "" {
			err = errors.Join(err, w.register(ctx, yardstick, b.yardstick))
		}
	}
	if err != nil {
		return nil, errors.Join(err, w.stop())
	}
	return w, nil
}

func (w *world) stop() error {
	w.closeVendor()
	return w.server.Stop()
}

func (w *world) register(ctx context.Context, name, binary string) error {
	if err := w.server.InstallPlugin(binary); err != nil {
		return err
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	return w.client.Sys().RegisterPluginWithContext(ctx, &api.RegisterPluginInput{
		Name: name, Type: api.PluginTypeSecrets, Command: filepath.Base(binary), SHA256: fmt.Sprintf("%x", sha256.Sum256(content)),
	})
}

func (w *world) mount(ctx context.Context, path, plugin string) error {
	return w.client.Sys().MountWithContext(ctx, path, &api.MountInput{Type: plugin})
}

// name returns the name of the nth credential.
func name(n int) string { return fmt.Sprintf("c%05d", n) }

// write stores the nth credential. Its tokens have a lifetime of a day, unless fields set
// another one.
func (w *world) write(ctx context.Context, mount string, n int, fields map[string]any) error {
	data := map[string]any{"api_key": apiKey, "base_url": w.base}
	for field, value := range fields {
		data[field] = value
	}
	_, err := w.client.Logical().WriteWithContext(ctx, mount+"/config/sitecore/"+name(n), data)
	return err
}

func (w *world) read(ctx context.Context, path string, n int) (*api.Secret, error) {
	return w.client.Logical().ReadWithContext(ctx, path+"/"+name(n))
}

// fill mounts the engine, stores count credentials, and reads each once, so that its token is
// cached.
func (w *world) fill(ctx context.Context, mount string, count int) error {
	if err := w.mount(ctx, mount, engine); err != nil {
		return err
	}
	return each(count, func(n int) error {
		// The first read exchanges, so the write need not.
		if err := w.write(ctx, mount, n, map[string]any{"verify": false}); err != nil {
			return err
		}
		_, err := w.read(ctx, mount+"/token", n)
		return err
	})
}

// each calls do for every number below count, several at a time, until a call fails.
func each(count int, do func(n int) error) error {
	numbers := make(chan int)
	failed := make(chan error, writers)
	var working sync.WaitGroup
	for range writers {
		working.Go(func() {
			for n := range numbers {
				if err := do(n); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	var err error
	for n := 0; n < count && err == nil; n++ {
		select {
		case numbers <- n:
		case err = <-failed:
		}
	}
	close(numbers)
	working.Wait()
	select {
	case other := <-failed:
		err = errors.Join(err, other)
	default:
	}
	return err
}
