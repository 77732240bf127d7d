package kubecluster

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
)

// accountFolder is where a pod finds the token of its service account.
const accountFolder = "/var/run/secrets/kubernetes.io/serviceaccount"

// Operate runs a program of the folder of binaries as in a pod of its own namespace. Its service account is an administrator. The
// program runs until Stop.
func (c *Cluster) Operate(ctx context.Context, name string, env map[string]string, args ...string) error {
	return c.operate(ctx, name, nil, env, args...)
}

func (c *Cluster) operate(ctx context.Context, name string, mounts []mount, env map[string]string, args ...string) error {
	if _, err := c.Kubectl(ctx, fmt.Sprintf(operator, name), "apply", "-f", "-"); err != nil {
		return err
	}
	day := int64(24 * time.Hour / time.Second)
	token, err := c.accountToken(ctx, name, name, authenticationv1.TokenRequestSpec{ExpirationSeconds: &day})
	if err != nil {
		return err
	}
	folder := c.file("operator-" + name)
	if err := os.Mkdir(folder, 0o700); err != nil {
		return err
	}
	for file, content := range map[string]string{"token": token, "namespace": name, "ca.crt": c.issuer.certificate} {
		if err := os.WriteFile(filepath.Join(folder, file), []byte(content), 0o600); err != nil {
			return err
		}
	}
	all := map[string]string{"KUBERNETES_SERVICE_HOST": c.address, "KUBERNETES_SERVICE_PORT": apiPort}
	for variable, value := range env {
		all[variable] = value
	}
	mounts = append(mounts, mount{from: folder, to: accountFolder})
	return c.launch(name, c.sandbox(mounts, all, append([]string{"/opt/bin/" + name}, args...)...))
}

// operator is an operator's namespace and service account.
const operator = `
{apiVersion: v1, kind: Namespace, metadata: {name: %[1]s}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: %[1]s, namespace: %[1]s}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: %[1]s, namespace: %[1]s}]
`

// Inject runs the Vault Agent injector, vault-k8s, as a webhook that the API server calls for each new pod.
func (c *Cluster) Inject(ctx context.Context) error {
	hook := net.JoinHostPort(c.address, hookPort)
	mounts := []mount{{from: c.file("hook.crt"), to: "/tls/tls.crt"}, {from: c.file("hook.key"), to: "/tls/tls.key"}}
	err := c.operate(ctx, "vault-k8s", mounts, nil, "agent-inject", "-listen="+hook,
		"-tls-cert-file=/tls/tls.crt", "-tls-key-file=/tls/tls.key", "-vault-address=https://vault.vault.svc:"+vaultPort)
	if err != nil {
		return err
	}
	err = c.await(ctx, "the injector", func() bool {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+hook+"/health/ready", http.NoBody)
		if err != nil {
			return false
		}
		resp, err := c.client.Do(req)
		return err == nil && resp.Body.Close() == nil && resp.StatusCode == http.StatusNoContent
	})
	if err != nil {
		return err
	}
	_, err = c.Kubectl(ctx, fmt.Sprintf(webhook, hook, base64.StdEncoding.EncodeToString([]byte(c.issuer.certificate))), "apply", "-f", "-")
	return err
}

// webhook is that of the deployment of vault-k8s, with the address of the process, and a failure if it does not answer.
const webhook = `
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: vault-agent-injector-cfg}
webhooks:
- name: vault.hashicorp.com
  sideEffects: None
  admissionReviewVersions: [v1]
  failurePolicy: Fail
  clientConfig: {url: "https://%s/mutate", caBundle: %s}
  rules:
  - {operations: [CREATE], apiGroups: [""], apiVersions: [v1], resources: [pods], scope: Namespaced}
`

// ServeVault makes a Vault server reachable at https://vault.vault.svc:8200 from the sandboxes.
func (c *Cluster) ServeVault(ctx context.Context, address string) error {
	to, err := url.Parse(address)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(c.address, vaultPort))
	if err != nil {
		return err
	}
	c.vault = &http.Server{Handler: httputil.NewSingleHostReverseProxy(to), ReadHeaderTimeout: time.Minute}
	go func() { _ = c.vault.ServeTLS(listener, c.file("vault.crt"), c.file("vault.key")) }()
	return nil
}
