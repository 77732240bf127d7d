//go:build e2e && kubernetes

package e2e

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// sync makes the External Secrets Operator read at once, as docs/kubernetes.md tells: after failures it waits for minutes.
func (k *kube) sync(namespaces ...string) {
	k.t.Helper()
	for _, namespace := range namespaces {
		k.kubectl("", "-n", namespace, "annotate", "--overwrite", "externalsecret", "kensho-token", "force-sync="+rand.Text())
	}
}

// The manifests read the role prod of the credential link.
func TestKubernetesShowsWhatHappensToACredential(t *testing.T) {
	t.Parallel()
	own := ownWorld(t, vaultserver.StartDev)
	m := own.enable(t, "kensho")
	m.behave(vendorsim.Conduct{Lifetime: clusterLifetime})
	m.write("config/kensho/link", m.keyPair())
	role := map[string]any{"config": "link"}
	m.write("roles/prod", role)
	k := startKube(t)
	k.serve(own)
	manifests := map[string]string{"vso": "vso.yaml", "vso-token": "vso-token.yaml", "eso": "eso.yaml", "eso-store": "eso-store.yaml"}
	reasons := map[string]string{"vso": "SecretSyncError", "vso-token": "SecretSyncError", "eso": "UpdateFailed", "eso-store": "UpdateFailed"}
	k.connect(m, "vso", "vso-token", "eso", "eso-store")
	token := func(namespace string) string { return k.secret(namespace, "kensho-token", "access_token") }
	each := func(what string, condition func(namespace string) bool) {
		for namespace := range manifests {
			k.eventually(func() bool { return condition(namespace) }, "%s: %s", namespace, what)
		}
	}
	reports := func(namespace, message string) bool {
		return strings.Contains(k.kubectl("", "-n", namespace, "get", "events", "--field-selector=reason="+reasons[namespace], "-o=jsonpath={.items[*].message}"), message)
	}
	isLive := func(namespace string) bool { return m.sim.Accepts(token(namespace)) }
	for namespace, file := range manifests {
		k.prepare(namespace)
		k.apply(file, "analytics", namespace, "refreshInterval: 5m", eagerInterval)
	}
	each("there is no token", isLive)

	// A credential is rotated.
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	m.sim.AddClient("0oa1other", &other.PublicKey, "")
	fields := m.keyPair()
	fields["client_id"], fields["private_key"] = "0oa1other", encodeKey(other)
	m.write("config/kensho/link", fields)
	m.write("refresh/link", map[string]any{"drop": true})
	m.sim.RevokeCredential(clientID)
	old := map[string]string{}
	for namespace := range manifests {
		old[namespace] = token(namespace)
	}
	each("the token of the replaced credential stays", func(namespace string) bool {
		assert.True(t, isLive(namespace), "%s: a look sees a token that the vendor does not accept", namespace)
		return token(namespace) != old[namespace]
	})

	// The vendor is down for longer than a token is valid.
	m.behave(vendorsim.Conduct{Lifetime: clusterLifetime, Fault: vendorsim.Always(vendorsim.Answer(http.StatusServiceUnavailable, ""))})
	each("the outage does not end the last token", func(namespace string) bool { return !isLive(namespace) })
	each("no event about the outage", func(namespace string) bool {
		return reports(namespace, "the vendor is unavailable and there is no valid token")
	})
	m.behave(vendorsim.Conduct{Lifetime: clusterLifetime})
	k.sync("eso", "eso-store")
	each("no new token after the outage", isLive)

	// The role is deleted.
	_, err = m.root.Logical().DeleteWithContext(context.WithoutCancel(t.Context()), "kensho/roles/prod")
	require.NoError(t, err)
	each("no event about the unknown role", func(namespace string) bool { return reports(namespace, `no role or credential named "prod"`) })
	for namespace := range manifests {
		assert.NotEmpty(t, token(namespace), "%s: the Secret keeps its last token", namespace)
	}
	m.write("roles/prod", role)
	k.sync("eso", "eso-store")
	each("no new token with the role", isLive)
}
