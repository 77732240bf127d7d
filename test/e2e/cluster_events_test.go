//go:build e2e && kubernetes

package e2e

import (
	"crypto/rand"
	"crypto/rsa"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// manifestsOfReaders are the manifests that this test applies, by the namespace that they get.
var manifestsOfReaders = map[string]string{
	"vso": "vso.yaml", "vso-token": "vso-token.yaml", "eso": "eso.yaml", "eso-store": "eso-store.yaml",
	"agent": "injector.yaml", "agent-creds": "injector-creds.yaml",
}

// reasons are the reasons of the operators' events about a failed read. An Agent has no events.
var reasons = map[string]string{
	"vso": "SecretSyncError", "vso-token": "SecretSyncError", "eso": "UpdateFailed", "eso-store": "UpdateFailed",
}

// An observation is about readers of the role prod, by their namespaces.
type observation struct {
	*kube
	m      *mount
	tokens map[string]func() string
}

// observe applies the manifests, and returns when each reader has a valid token.
func observe(k *kube, m *mount) *observation {
	k.t.Helper()
	o := &observation{k, m, map[string]func() string{}}
	k.connect(m, slices.Sorted(maps.Keys(manifestsOfReaders))...)
	for namespace, file := range manifestsOfReaders {
		k.prepare(namespace)
		k.apply(file, "analytics", namespace, "refreshInterval: 5m", eagerInterval, "replicas: 2", "replicas: 1")
		o.tokens[namespace] = func() string { return k.secret(namespace, "kensho-token", "access_token") }
	}
	for _, namespace := range []string{"agent", "agent-creds"} {
		pod := k.agents(namespace, "app.kubernetes.io/name=dashboard", 1)[0]
		o.tokens[namespace] = rendered(pod)
		k.t.Cleanup(func() { k.t.Logf("%s: the Agent was restarted %d times", namespace, pod.Restarts()) })
	}
	o.each("no valid token", func(_, token string) bool { return m.sim.Accepts(token) })
	return o
}

// each waits until a condition has been true of each reader and its token.
func (o *observation) each(failure string, condition func(namespace, token string) bool) {
	o.t.Helper()
	pending := map[string]bool{}
	for namespace := range o.tokens {
		pending[namespace] = true
	}
	o.eventually(func() bool {
		for namespace := range pending {
			if condition(namespace, o.tokens[namespace]()) {
				delete(pending, namespace)
			}
		}
		return len(pending) == 0
	}, "%s: %v", failure, pending)
}

// reports reports whether a reader has an event with a message. An Agent has no events.
func (o *observation) reports(namespace string, message *regexp.Regexp) bool {
	o.t.Helper()
	reason, hasEvents := reasons[namespace]
	return !hasEvents || message.MatchString(o.kubectl("", "-n", namespace, "get", "events", "--field-selector=reason="+reason, "-o=jsonpath={.items[*].message}"))
}

// recover waits until each reader has a valid token again. It makes the External Secrets Operator read at once, as
// docs/kubernetes.md says, since that waits for minutes after failures.
func (o *observation) recover(failure string) {
	o.t.Helper()
	o.each(failure, func(namespace, token string) bool {
		if o.m.sim.Accepts(token) {
			return true
		}
		if strings.HasPrefix(namespace, "eso") {
			o.kubectl("", "-n", namespace, "annotate", "--overwrite", "externalsecret", "kensho-token", "force-sync="+rand.Text())
		}
		return false
	})
}

// serves returns the token that the engine serves.
func (o *observation) serves() string {
	o.t.Helper()
	secret, err := o.m.root.Logical().ReadWithContext(o.t.Context(), "kensho/token/prod")
	require.NoError(o.t, err)
	return secret.Data["access_token"].(string)
}

func TestKubernetesShowsWhatHappensToACredential(t *testing.T) {
	t.Parallel()
	own := ownWorld(t, vaultserver.StartDev)
	m := own.enable(t, "kensho")
	m.behave(vendorsim.Conduct{Lifetime: clusterLifetime})
	m.write("config/kensho/link", m.keyPair())
	m.write("roles/prod", map[string]any{"config": "link"})
	k := startKube(t)
	k.serve(own)
	o := observe(k, m)
	o.replaceTheCredential()
	o.breakTheVendor()
	o.deleteTheRole()
}

func (o *observation) replaceTheCredential() {
	o.t.Helper()
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(o.t, err)
	o.m.sim.AddClient("0oa1other", &other.PublicKey, "")
	fields := o.m.keyPair()
	fields["client_id"], fields["private_key"] = "0oa1other", encodeKey(other)
	old := o.serves()
	o.m.write("config/kensho/link", fields)
	o.m.sim.RevokeCredential(clientID)
	assert.NotEqual(o.t, old, o.serves(), "the write voids the tokens of the former credential")

	// The vendor does not know the former client any more, so a later token is of the other.
	former := o.m.sim.Secrets()
	o.each("no token of the other credential", func(namespace, token string) bool {
		assert.True(o.t, o.m.sim.Accepts(token), "%s: a read of the Secret or file returns a token that the vendor does not accept", namespace)
		return !slices.Contains(former, token)
	})
}

// The vendor is unavailable for longer than a token is valid.
func (o *observation) breakTheVendor() {
	o.t.Helper()
	o.m.behave(vendorsim.Conduct{Lifetime: clusterLifetime, Fault: vendorsim.Always(vendorsim.Answer(http.StatusServiceUnavailable, ""))})
	o.eventually(func() bool { return o.m.sim.InFlight() == 0 }, "an exchange is in flight")
	last := o.serves()
	event := regexp.MustCompile(`the vendor is unavailable and there is no valid token: .*; next attempt at \d{4}-`)
	o.each("no event about the outage", func(namespace, token string) bool {
		if o.m.sim.Accepts(token) {
			return false
		}
		require.Equal(o.t, last, token, "%s: the last token stays", namespace)
		return o.reports(namespace, event)
	})

	// A refresh ignores the back-off, which reads do not.
	next := time.Time{}
	o.eventually(func() bool {
		_, err := o.m.root.Logical().ReadWithContext(o.t.Context(), "kensho/token/prod")
		require.Error(o.t, err)
		_, text, _ := strings.Cut(err.Error(), "next attempt at ")
		text, _, _ = strings.Cut(text, " ")
		next, err = time.Parse(time.RFC3339, strings.TrimSpace(text))
		require.NoError(o.t, err)
		return time.Until(next) > 10*time.Second
	}, "the engine does not back off for longer than 10 s")
	for namespace, token := range o.tokens {
		assert.Equal(o.t, last, token(), "%s: the last token stays", namespace)
	}
	o.m.behave(vendorsim.Conduct{Lifetime: clusterLifetime})
	_, err := o.m.root.Logical().ReadWithContext(o.t.Context(), "kensho/token/prod")
	assertStatus(o.t, http.StatusServiceUnavailable, "next attempt at", err)
	o.m.write("refresh/link", nil)
	require.True(o.t, time.Now().Before(next), "the engine has backed off until the refresh")
	o.recover("no new token after the outage")
}

func (o *observation) deleteTheRole() {
	o.t.Helper()
	_, err := o.m.root.Logical().DeleteWithContext(o.t.Context(), "kensho/roles/prod")
	require.NoError(o.t, err)
	issued := o.m.sim.Secrets()
	event := regexp.MustCompile(`no role or credential named "prod"`)
	kept := map[string]string{}
	o.each("no event about the unknown role", func(namespace, token string) bool {
		if o.m.sim.Accepts(token) {
			return false
		}
		if kept[namespace] == "" {
			kept[namespace] = token
			require.Contains(o.t, issued, token, "%s: the last token stays", namespace)
		}
		return o.reports(namespace, event)
	})
	for namespace, token := range o.tokens {
		assert.Equal(o.t, kept[namespace], token(), "%s: the last token stays", namespace)
	}
	o.m.write("roles/prod", map[string]any{"config": "link"})
	o.recover("no new token with the role")
}
