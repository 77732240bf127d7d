//go:build e2e

package e2e

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// assertAccepted asserts that the vendor accepts what the role of the example reads below a path.
func (m *mount) assertAccepted(mount string) {
	m.t.Helper()
	secret, err := m.root.Logical().ReadWithContext(m.t.Context(), mount+"/token/link-reports")
	require.NoError(m.t, err)
	assert.True(m.t, m.sim.Accepts(secret.Data["access_token"].(string)))
}

func TestTerraformRenamesACredentialOnlyWithItsSecret(t *testing.T) {
	m := unmounted(t)
	tf := newExample(t, m)
	tf.run(0, "init")
	tf.apply(0)
	key := privateKeyPEM()
	tf.edit("main.tf", `credential = "batch"`, `credential = "stream"`)
	tf.edit("main.tf", `secret         = { private_key = var.private_key }`, `secret         = var.private_key == null ? null : { private_key = var.private_key }`)
	for _, missing := range []func(){func() { tf.set("private_key", "") }, func() { tf.withoutKey() }} {
		missing()
		assert.Contains(t, tf.apply(1), "Output: The secret must be written, but")
		m.assertAccepted("kensho")
	}
	tf.set("private_key", key)
	tf.apply(0)
	m.assertAccepted("kensho")
	tf.withoutKey()
	tf.assertNoChanges()
	tf.assertNowhere(keyLines(key))

	// The old credential stays, as the description of the variable says.
	for _, name := range []string{"batch", "stream"} {
		_, err := m.root.Logical().ReadWithContext(t.Context(), "kensho/config/kensho/"+name)
		require.NoError(t, err)
	}
	role, err := m.root.Logical().ReadWithContext(t.Context(), "kensho/roles/link-reports")
	require.NoError(t, err)
	assert.Equal(t, "stream", role.Data["config"])
	tf.run(0, "destroy", "-auto-approve")
}

func TestTerraformMovesAMountWithItsCredential(t *testing.T) {
	m := unmounted(t)
	tf := newExample(t, m)
	policy, err := os.ReadFile(terraformExample + "/policy.hcl")
	require.NoError(t, err)
	ofMoved := strings.NewReplacer(`"kensho/`, `"moved/`, "acl/kensho/", "acl/moved/", "mounts/kensho", "mounts/moved").Replace(string(policy))
	require.NoError(t, m.root.Sys().PutPolicyWithContext(t.Context(), "moved", ofMoved+`
path "sys/remount" { capabilities = ["update", "sudo"] }
path "sys/remount/status/*" { capabilities = ["read"] }`))
	t.Cleanup(func() { require.NoError(t, m.root.Sys().UnmountWithContext(context.Background(), "moved")) })
	tf.env["VAULT_TOKEN"] = m.client("terraform", "moved").Token()
	tf.run(0, "init")
	tf.apply(0)
	tf.withoutKey()
	tf.edit("main.tf", `path        = "kensho"`, `path        = "moved"`)
	tf.apply(0)
	tf.assertNoChanges()
	m.assertAccepted("moved")
	mounts, err := m.root.Sys().ListMountsWithContext(t.Context())
	require.NoError(t, err)
	assert.NotContains(t, mounts, "kensho/")
	tf.run(0, "destroy", "-auto-approve")
}

// The steps are those of "Avoid the secret" in docs/terraform.md.
func TestTerraformStoresAKeyPairThatVaultGenerates(t *testing.T) {
	m := unmounted(t)
	tf := newExample(t, m)
	tf.withoutKey()
	tf.edit("main.tf", "    client_id = var.client_id\n", "    client_id = var.client_id\n    private_key_source = \"generated\"\n")
	tf.edit("main.tf", "  secret         = { private_key = var.private_key }\n", "")
	tf.run(0, "init")
	tf.run(0, "apply", "-auto-approve", "-target=module.kensho.vault_mount.this")
	policy, err := os.ReadFile("../../examples/policies/operator.hcl")
	require.NoError(t, err)
	require.NoError(t, m.root.Sys().PutPolicyWithContext(t.Context(), "operator", string(policy)))
	public, err := m.client("operator").Logical().WriteWithContext(t.Context(), "kensho/keypair/batch", nil)
	require.NoError(t, err)
	block, _ := pem.Decode([]byte(public.Data["public_key"].(string)))
	require.NotNil(t, block)
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	require.NoError(t, err)
	m.sim.AddClient(clientID, key.(*rsa.PublicKey), "")
	tf.apply(0)
	m.assertAccepted("kensho")
	tf.assertNoChanges()
	tf.run(0, "destroy", "-auto-approve")
}
