# Stores a Kensho key pair in Vault, and allows one application to read tokens for Link.
#
#   export VAULT_ADDR=https://vault.example.com VAULT_TOKEN=...
#   export TF_VAR_client_id=... TF_VAR_private_key="$(cat kensho.pem)"
#   tofu init
#   tofu apply
#
# You can use terraform instead of tofu. Register the plugin before. VAULT_TOKEN needs at least
# the policy in policy.hcl.
#
# The state contains the private key, and so does a plan that you save to a file. The output
# shows "(sensitive value)", but the provider (up to 5.11) has no write-only argument for a
# generic endpoint. Protect the state as you protect the key: use a backend that encrypts it and
# that few people can read, or OpenTofu's state encryption. To keep the key out of the state,
# remove vault_generic_endpoint.credential, and write the credential with `vault write` after the
# mount exists and before the role. Nothing else here is secret. The state contains no access
# token unless a data source reads one.

terraform {
  required_version = ">= 1.4.0"

  required_providers {
    vault = {
      source  = "hashicorp/vault"
      version = ">= 3.3.1, < 6.0.0"
    }
  }
}

provider "vault" {}

locals {
  credential = "batch"
  role       = "link-reports"
}

resource "vault_mount" "kensho" {
  path        = "kensho"
  type        = "tokenbroker"
  description = "Access tokens of Kensho"
}

# The engine verifies the key pair at Kensho before it stores it. If Kensho rejects it, the apply
# fails with Kensho's reason, and the previous credential stays.
resource "vault_generic_endpoint" "credential" {
  path = "${vault_mount.kensho.path}/config/kensho/${local.credential}"

  # A read returns all fields except secrets. Ignore fields that are not set below. The next
  # plan shows changes to the others.
  ignore_absent_fields = true

  # A write changes only the fields that it names. To clear a field, set it to "" instead of
  # removing its line.
  data_json = jsonencode({
    client_id   = var.client_id
    private_key = var.private_key
    scope       = ["kensho:app:link", "kensho:app:scribe"]
    token_url   = var.token_url
  })

  # If an update fails, the provider has the new key in the state, and no read can show that
  # Vault still has the old key, so the next plan would do nothing. A failed replacement is
  # tried again. With disable_delete, a replacement does not delete the credential: only the
  # deletion of the mount does.
  disable_delete = true
  lifecycle {
    replace_triggered_by = [terraform_data.private_key]
  }
}

resource "terraform_data" "private_key" {
  triggers_replace = sha256(var.private_key)
}

# Tokens only for Link, under a name for the application.
resource "vault_generic_endpoint" "role" {
  path                 = "${vault_mount.kensho.path}/roles/${local.role}"
  ignore_absent_fields = true

  # Give durations in seconds, as the engine returns them. "15m" would show as a change in
  # every plan.
  data_json = jsonencode({
    config  = local.credential
    scope   = ["kensho:app:link"]
    ttl     = 900
    min_ttl = 300
  })

  # The credential must exist before the role.
  depends_on = [vault_generic_endpoint.credential]
}

resource "vault_policy" "role" {
  name   = "${vault_mount.kensho.path}-${local.role}"
  policy = <<-EOT
    path "${vault_mount.kensho.path}/creds/${local.role}" {
      capabilities = ["read"]
    }
  EOT
}

output "creds_path" {
  description = "The path that the application reads."
  value       = "${vault_mount.kensho.path}/creds/${local.role}"
}

output "policy" {
  description = "The policy to add to the auth role of the application."
  value       = vault_policy.role.name
}
