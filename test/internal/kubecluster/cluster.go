// Package kubecluster runs a Kubernetes cluster without nodes on this machine, for the tests: etcd, the API server and
// the controller manager, built from their sources. Containers run in sandboxes of bubblewrap, with the volumes of their
// pods, as a kubelet would run them. All of them share one random loopback address, which probably no other cluster uses.
package kubecluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/testing/process"
)

// The ports of a cluster's address.
const (
	apiPort      = "6443"
	etcdPort     = "2379"
	etcdPeerPort = "2380"
	hookPort     = "8443"
	vaultPort    = "8200"
)

// patience bounds the wait for a part of the cluster. It is long enough for a busy machine.
const patience = 5 * time.Minute

// A Cluster is a running cluster.
type Cluster struct {
	// CA is the file with the certificate authority of the cluster, which also signed the certificate of Vault.
	CA string

	bin     string // the folder of the binaries
	dir     string
	address string // without a port
	token   string // of an administrator
	log     io.Writer
	issuer  *authority
	client  *http.Client
	running []program // in the order of their start
	vault   *http.Server
}

// A program is a running program of the cluster.
type program struct {
	*process.Process
	name string
}

// Start starts a cluster from the binaries in a folder: etcd, kube-apiserver, kube-controller-manager and kubectl. Their
// output goes to log.
func Start(ctx context.Context, bin string, log io.Writer) (_ *Cluster, err error) {
	c := &Cluster{bin: bin, address: randomAddress(), token: randomText(), log: log}
	if c.dir, err = os.MkdirTemp("", "cluster-"); err != nil {
		return nil, err
	}
	if err := process.RemoveAtExit(c.dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop())
		}
	}()
	if err := c.writeFiles(); err != nil {
		return nil, err
	}
	if err := c.startEtcd(); err != nil {
		return nil, err
	}
	if err := c.startAPIServer(ctx); err != nil {
		return nil, err
	}
	return c, c.startControllers(ctx)
}

// randomAddress returns a random loopback address. Linux has 16 million of them.
func randomAddress() string {
	var b [3]byte
	_, _ = rand.Read(b[:])
	return net.IPv4(127, b[0], b[1], 2+b[2]%250).String()
}

func randomText() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// Address returns the host and port of the API server.
func (c *Cluster) Address() string { return net.JoinHostPort(c.address, apiPort) }

func (c *Cluster) file(name string) string { return filepath.Join(c.dir, name) }

// writeFiles writes the keys, certificates and configuration of the cluster.
func (c *Cluster) writeFiles() (err error) {
	if c.issuer, err = newAuthority(); err != nil {
		return err
	}
	c.CA = c.file("ca.crt")
	c.client = &http.Client{
		Timeout:   time.Minute,
		Transport: &http.Transport{TLSClientConfig: c.issuer.trusting()},
	}
	files := map[string]string{
		"ca.crt":     c.issuer.certificate,
		"tokens.csv": fmt.Sprintf("%s,admin,admin,system:masters\n", c.token),
		"kubeconfig": fmt.Sprintf(kubeconfig, c.Address(), c.CA, c.token),
		// The sandboxes look up Vault here.
		"hosts":         fmt.Sprintf("127.0.0.1 localhost\n%s vault.vault.svc\n", c.address),
		"nsswitch.conf": "hosts: files\n",
	}
	for name, hosts := range map[string][]string{
		"apiserver": {c.address, "kubernetes.default.svc", "kubernetes.example.com"},
		"hook":      {c.address},
		"vault":     {c.address, "vault.vault.svc"},
	} {
		certificate, key, err := c.issuer.issue(hosts...)
		if err != nil {
			return err
		}
		files[name+".crt"], files[name+".key"] = certificate, key
	}
	if files["accounts.key"], files["accounts.pub"], err = newKeyPair(); err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(c.file(name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	return nil
}

const kubeconfig = `apiVersion: v1
kind: Config
current-context: test
clusters: [{name: test, cluster: {server: "https://%s", certificate-authority: %s}}]
users: [{name: admin, user: {token: %s}}]
contexts: [{name: test, context: {cluster: test, user: admin}}]
`

func (c *Cluster) startEtcd() error {
	client, peer := "http://"+net.JoinHostPort(c.address, etcdPort), "http://"+net.JoinHostPort(c.address, etcdPeerPort)
	return c.start("etcd",
		"--data-dir="+c.file("etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls="+client, "--advertise-client-urls="+client,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer)
}

func (c *Cluster) startAPIServer(ctx context.Context) error {
	err := c.start("kube-apiserver",
		"--etcd-servers=http://"+net.JoinHostPort(c.address, etcdPort),
		"--bind-address="+c.address, "--secure-port="+apiPort, "--endpoint-reconciler-type=none",
		"--tls-cert-file="+c.file("apiserver.crt"), "--tls-private-key-file="+c.file("apiserver.key"),
		"--service-cluster-ip-range=10.96.0.0/24",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+c.file("accounts.pub"), "--service-account-signing-key-file="+c.file("accounts.key"),
		"--token-auth-file="+c.file("tokens.csv"), "--authorization-mode=RBAC")
	if err != nil {
		return err
	}
	return c.await(ctx, "the API server", func() bool { return c.Get(ctx, "/readyz", nil) == nil })
}

// controllers are those that the manifests need: the replica sets of deployments and their pods, service accounts with their
// tokens in Secrets, and the deletion of what belongs to something deleted.
const controllers = "deployment-controller,replicaset-controller,namespace-controller,garbage-collector-controller," +
	"serviceaccount-controller,serviceaccount-token-controller,root-ca-certificate-publisher-controller"

func (c *Cluster) startControllers(ctx context.Context) error {
	err := c.start("kube-controller-manager",
		"--kubeconfig="+c.file("kubeconfig"), "--controllers="+controllers, "--leader-elect=false", "--secure-port=0",
		"--service-account-private-key-file="+c.file("accounts.key"), "--root-ca-file="+c.CA)
	if err != nil {
		return err
	}
	return c.await(ctx, "the controller manager", func() bool {
		return c.Get(ctx, "/api/v1/namespaces/default/serviceaccounts/default", nil) == nil
	})
}

// start starts a binary of the cluster, which runs until Stop.
func (c *Cluster) start(name string, args ...string) error {
	return c.launch(name, newCommand(filepath.Join(c.bin, name), args...))
}

// Err returns an error if a program of the cluster has ended.
func (c *Cluster) Err() error {
	for _, p := range c.running {
		select {
		case <-p.Ended():
			return fmt.Errorf("%s has ended", p.name)
		default:
		}
	}
	return nil
}

// await waits until a part of the cluster is ready. It fails at once if a program has ended.
func (c *Cluster) await(ctx context.Context, what string, isReady func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for !isReady() {
		if err := c.Err(); err != nil {
			return fmt.Errorf("%s is not ready: %w", what, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w", what, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

// Stop ends all processes, the last first, and removes the files of the cluster.
func (c *Cluster) Stop() error {
	var failures []error
	if c.vault != nil {
		failures = append(failures, c.vault.Close())
	}
	for len(c.running) > 0 {
		last := len(c.running) - 1
		failures = append(failures, c.running[last].StopGroup())
		c.running = c.running[:last]
	}
	return errors.Join(append(failures, os.RemoveAll(c.dir))...)
}
