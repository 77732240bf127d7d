//go:build e2e && kubernetes

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"vault-plugin-secrets-tokenbroker/test/internal/kubecluster"
)

// The tests of these files run a real Kubernetes cluster beside the server: KUBERNETES_BIN names the folder of the
// binaries. `make kubernetes` sets it.

// operators are the operators of the tests, with their options and the folder of their resource definitions below
// tools/<name>.
var operators = map[string]struct {
	module, definitions string
	options             []string
}{
	"vault-secrets-operator": {
		"github.com/hashicorp/vault-secrets-operator", "config/crd/bases",
		[]string{"-leader-elect=false", "-metrics-bind-address=0", "-health-probe-bind-address=0"},
	},
	"external-secrets": {
		"github.com/external-secrets/external-secrets", "config/crds/bases",
		[]string{"--metrics-addr=0", "--concurrent=4"},
	},
}

// A kube is a cluster with both operators and the injector. serve names the server that its applications read from.
type kube struct {
	*kubecluster.Cluster
	t   *testing.T
	log *logBuffer
}

func startKube(t *testing.T) *kube {
	t.Helper()
	k := &kube{t: t, log: &logBuffer{}}
	var err error
	k.Cluster, err = kubecluster.Start(t.Context(), os.Getenv("KUBERNETES_BIN"), k.log)
	require.NoError(t, err, "%s", k.log)
	t.Cleanup(func() {
		assert.NoError(t, k.Stop())
		if t.Failed() {
			t.Log(k.log)
		}
	})
	for name, operator := range operators {
		k.define(filepath.Join(moduleFolder(t, name, operator.module), operator.definitions))
		require.NoError(t, k.Operate(t.Context(), name, nil, operator.options...))
	}
	require.NoError(t, k.Inject(t.Context()))
	return k
}

// define applies the resource definitions in a folder.
func (k *kube) define(folder string) {
	k.t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*_*.yaml"))
	require.NoError(k.t, err)
	args := []string{"apply", "--server-side"}
	for _, file := range files {
		args = append(args, "-f", file)
	}
	k.kubectl("", args...)
	k.kubectl("", "wait", "crd", "--all", "--for=condition=Established", "--timeout="+patience.String())
}

func (k *kube) serve(of *world) {
	k.t.Helper()
	require.NoError(k.t, k.ServeVault(k.t.Context(), of.server.Address))
}

// moduleFolder returns the folder of a module that one in tools/ requires.
func moduleFolder(t *testing.T, tool, module string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", module)
	cmd.Dir = "../../tools/" + tool
	output, err := cmd.Output()
	require.NoError(t, err, "%s", output)
	var downloaded struct{ Dir string }
	require.NoError(t, json.Unmarshal(output, &downloaded))
	require.NotEmpty(t, downloaded.Dir, module)
	return downloaded.Dir
}

// kubectl runs kubectl with an input.
func (k *kube) kubectl(input string, args ...string) string {
	k.t.Helper()
	output, err := k.Kubectl(k.t.Context(), input, args...)
	require.NoError(k.t, err)
	return output
}

// apply applies a manifest of examples/kubernetes, with replacements as for strings.NewReplacer.
func (k *kube) apply(file string, oldnew ...string) {
	k.t.Helper()
	content, err := os.ReadFile(filepath.Join("../../examples/kubernetes", file))
	require.NoError(k.t, err)
	k.kubectl(strings.NewReplacer(oldnew...).Replace(string(content)), "apply", "-f", "-")
}

// prepare creates a namespace as docs/kubernetes.md says: with the service account and the certificate authority of Vault.
func (k *kube) prepare(namespace string) {
	k.t.Helper()
	k.apply("serviceaccount.yaml", "analytics", namespace)
	k.kubectl("", "-n", namespace, "create", "secret", "generic", "vault-ca", "--from-file=ca.crt="+k.CA)
}

// secret returns a value of a Secret; "" if the Secret does not exist. It tries again after any other error, and fails the test
// if that does not help.
func (k *kube) secret(namespace, name, key string) string {
	k.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(pollInterval) {
		var secret corev1.Secret
		err := k.Get(k.t.Context(), "/api/v1/namespaces/"+namespace+"/secrets/"+name, &secret)
		var status *kubecluster.StatusError
		switch {
		case err == nil:
			return string(secret.Data[key])
		case errors.As(err, &status) && status.Code == http.StatusNotFound:
			return ""
		case k.Err() != nil || time.Now().After(deadline):
			k.t.Errorf("%s/%s: %v", namespace, name, errors.Join(err, k.Err()))
			return ""
		}
	}
}

// pollInterval is the time between two reads of what a test waits for.
const pollInterval = 200 * time.Millisecond

// eventually waits until a condition holds. It runs the condition in the goroutine of the test, so the condition may fail the
// test.
func (k *kube) eventually(condition func() bool, failure string, args ...any) {
	k.t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(pollInterval) {
		require.NoError(k.t, k.Err())
		require.True(k.t, time.Now().Before(deadline), append([]any{failure}, args...)...)
	}
}

// connect sets up Vault's Kubernetes auth method with the commands of docs/kubernetes.md, for service accounts of
// namespaces.
func (k *kube) connect(m *mount, namespaces ...string) {
	k.t.Helper()
	dir := k.t.TempDir()
	k.apply("reviewer.yaml")
	for file, key := range map[string]string{"reviewer.jwt": "token", "ca.crt": "ca.crt"} {
		k.eventually(func() bool { return k.secret("vault", "vault-reviewer-token", key) != "" }, key)
		require.NoError(k.t, os.WriteFile(filepath.Join(dir, file), []byte(k.secret("vault", "vault-reviewer-token", key)), 0o600))
	}
	all := "bound_service_account_namespaces=" + strings.Join(namespaces, ",")
	m.run(dir, "vault auth enable")
	m.run(dir, "vault write auth/kubernetes/config", "https://kubernetes.example.com:6443", "https://"+k.Address())
	m.run("../..", "vault policy write")
	m.run("../..", "vault write auth/kubernetes/role/",
		"bound_service_account_namespaces=analytics,reporting", all, "bound_service_account_namespaces=analytics", all)
}

// agents runs the Agents of all pods of a Deployment, as the injector has specified them.
func (k *kube) agents(namespace, label string, replicas int) []*kubecluster.Pod {
	k.t.Helper()
	var pods []corev1.Pod
	k.eventually(func() bool {
		var err error
		pods, err = k.Pods(k.t.Context(), namespace, label)
		require.NoError(k.t, err)
		return len(pods) == replicas
	}, "%d pods of %s", replicas, label)
	all := make([]*kubecluster.Pod, 0, replicas)
	for _, pod := range pods {
		running, err := k.Schedule(k.t.Context(), pod)
		require.NoError(k.t, err)
		ctx, cancel := context.WithTimeout(k.t.Context(), patience)
		defer cancel()
		printed, err := running.Run(ctx, "vault-agent-init")
		require.NoError(k.t, err, printed)
		require.NoError(k.t, running.Start("vault-agent"))
		k.t.Cleanup(func() { assert.NoError(k.t, running.Stop()) })
		all = append(all, running)
	}
	return all
}

// rendered returns a function that reads the token that the Agent of a pod renders; "" if there is none.
func rendered(pod *kubecluster.Pod) func() string {
	return func() string {
		token, _ := os.ReadFile(filepath.Join(pod.Folder("vault-secrets"), "kensho"))
		return string(token)
	}
}
