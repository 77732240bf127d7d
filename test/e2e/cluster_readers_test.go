//go:build e2e && kubernetes

package e2e

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/test/internal/kubecluster"
)

const (
	// clusterLifetime is the lifetime of the tokens in a cluster, and lifetimes is how many of them a test watches.
	clusterLifetime = 30 * time.Second
	lifetimes       = 10

	// minimumReads is one read of a Secret or file for each second.
	minimumReads = lifetimes * int(clusterLifetime/time.Second)

	// eagerInterval is to clusterLifetime what the refreshInterval of the examples is to an hour.
	eagerInterval = "refreshInterval: 2500ms"
)

// A consumer is a reader in a cluster, and where it puts the token.
type consumer struct {
	name, how string
	read      func() string // returns the token; "" if there is none yet
}

// A watched consumer is what reads of its Secret or file have returned.
type watched struct {
	consumer
	reads, expired int
	longest        time.Duration // between two reads
	tokens         []string
}

// watch reads the consumers' tokens for a number of lifetimes, each from its first token on.
func watch(m *mount, consumers []consumer) []*watched {
	m.t.Helper()
	all := make([]*watched, 0, len(consumers))
	var watching sync.WaitGroup
	for _, c := range consumers {
		w := &watched{consumer: c}
		all = append(all, w)
		watching.Go(func() { w.run(m) })
	}
	watching.Wait()
	return all
}

func (w *watched) run(m *mount) {
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	giveUp := time.After(patience + lifetimes*clusterLifetime)
	var begun, last time.Time
	for len(w.tokens) == 0 || time.Since(begun) < lifetimes*clusterLifetime {
		select {
		case <-giveUp:
			m.t.Errorf("%s: no token", w.name)
			return
		case <-poll.C:
		}
		token := w.read()
		if token == "" && len(w.tokens) == 0 {
			continue
		}
		if w.reads++; !m.sim.Accepts(token) {
			w.expired++
		}
		if w.reads > 1 {
			w.longest = max(w.longest, time.Since(last))
		}
		last = time.Now()
		if !slices.Contains(w.tokens, token) {
			if w.tokens = append(w.tokens, token); len(w.tokens) == 1 {
				begun = time.Now()
			}
		}
	}
}

// table returns the results as a table.
func table(all []*watched) string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "reader\thow it reads\tlifetimes\ttokens\treads of the Secret or file\tlongest time between two\texpired tokens")
	for _, c := range all {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%s\t%d\n", c.name, c.how, lifetimes, len(c.tokens), c.reads, c.longest.Round(time.Millisecond), c.expired)
	}
	_ = w.Flush()
	return text.String()
}

// ofSecret returns a consumer that is a Secret of a cluster.
func (k *kube) ofSecret(name, how, namespace, secret string) consumer {
	return consumer{name, how, func() string { return k.secret(namespace, secret, "access_token") }}
}

// It is not parallel to the other tests, so that their clusters do not slow down its readers.
func TestKubernetesReadersKeepAValidTokenOverTenLifetimes(t *testing.T) {
	own := ownWorld(t, vaultserver.StartDev)
	m := own.enable(t, "kensho")
	m.behave(vendorsim.Conduct{Lifetime: clusterLifetime})
	m.write("config/kensho/prod", m.keyPair())
	k := startKube(t)
	k.serve(own)
	namespaces := []string{"vso", "vso-token", "vso-restart", "eso", "eso-store", "east", "west", "agent", "agent-creds"}
	k.connect(m, namespaces...)
	for _, namespace := range namespaces {
		k.prepare(namespace)
	}

	k.apply("vso.yaml", "analytics", "vso")
	k.apply("vso-token.yaml", "analytics", "vso-token")
	k.apply("vso.yaml", "analytics", "vso-restart")
	k.apply("vso-restart.yaml", "analytics", "vso-restart")
	k.apply("eso.yaml", "analytics", "eso", "refreshInterval: 5m", eagerInterval)
	k.apply("eso-store.yaml", "analytics", "eso-store", "refreshInterval: 5m", eagerInterval)
	k.apply("eso-cluster.yaml", "analytics", "east", "reporting", "west", "refreshInterval: 5m", eagerInterval)
	k.apply("injector.yaml", "analytics", "agent")
	k.apply("injector-creds.yaml", "analytics", "agent-creds")

	consumers := []consumer{
		k.ofSecret("Vault Secrets Operator", "creds/", "vso", "kensho-token"),
		k.ofSecret("Vault Secrets Operator", "token/, allowStaticCreds", "vso-token", "kensho-token"),
		k.ofSecret("Vault Secrets Operator, restarts", "creds/", "vso-restart", "kensho-token-env"),
		k.ofSecret("External Secrets Operator, generator", "token/", "eso", "kensho-token"),
		k.ofSecret("External Secrets Operator, SecretStore", "token/", "eso-store", "kensho-token"),
		k.ofSecret("External Secrets Operator, ClusterGenerator, first namespace", "token/", "east", "kensho-token"),
		k.ofSecret("External Secrets Operator, ClusterGenerator, second namespace", "token/", "west", "kensho-token"),
	}
	var pods []*kubecluster.Pod
	for _, injected := range []struct{ namespace, how string }{{"agent", "token/"}, {"agent-creds", "creds/"}} {
		for n, pod := range k.agents(injected.namespace, "app.kubernetes.io/name=dashboard", 2) {
			pods = append(pods, pod)
			consumers = append(consumers, consumer{fmt.Sprintf("injected Agent, pod %d", n+1), injected.how, rendered(pod)})
		}
	}
	all := watch(m, consumers)
	t.Log("\n" + table(all))
	for _, w := range all {
		assert.Zero(t, w.expired, "%s, %s: reads of an expired token", w.name, w.how)
		assert.GreaterOrEqual(t, w.reads, minimumReads, "%s, %s: reads of the Secret or file", w.name, w.how)
		assert.GreaterOrEqual(t, len(w.tokens), lifetimes, "%s, %s", w.name, w.how)
	}
	for _, pod := range pods {
		assert.Zero(t, pod.Restarts(), "an Agent has ended")
	}
	generation, err := strconv.Atoi(k.kubectl("", "-n", "vso-restart", "get", "deployment", "dashboard", "-o", "jsonpath={.metadata.generation}"))
	require.NoError(t, err)
	assert.GreaterOrEqual(t, generation, lifetimes, "the Deployment is restarted with each token")
}
