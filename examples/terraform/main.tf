# A key pair of Kensho's in Vault, and one application that may read tokens for Link
# and nothing else.
#
#   export VAULT_ADDR=https://vault.example.com VAULT_TOKEN=...
#   export TF_VAR_client_id=... TF_VAR_private_key="$(cat kensho.pem)"
#   tofu init
#   tofu apply
#
# (or terraform in tofu's place). The plugin has been registered before, and
# VAULT_TOKEN has at least the policy in policy.hcl.
#
# The private key ends up in the state, and in a plan that is saved to a file: what is
# printed shows "(sensitive value)", but the provider, 5.11 included, has no write-only
# argument for an endpoint that it does not know. Guard the state as you guard the key:
# a backend that encrypts it and that few can read, or OpenTofu's own encryption. Or
# keep the key out of it: leave vault_generic_endpoint.credential out, and `vault write`
# the credential once the mount is there and before the role. Nothing else here is
# secret. Access tokens stay out of the state as long as no data source reads them.

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
  description = "Access tokens of Kensho's"
}

# Vault tries the key pair at Kensho before it stores it: one that Kensho rejects fails
# the apply, with Kensho's reason, and the credential that was there stays.
resource "vault_generic_endpoint" "credential" {
  path = "${vault_mount.kensho.path}/config/kensho/${local.credential}"

  # A read returns every field but the secrets: a setting that somebody else changed
  # shows in the next plan, and what is not named here is left alone.
  ignore_absent_fields = true

  # A write changes the fields that it names. To clear one, set it to "", and do not
  # just remove its line.
  data_json = jsonencode({
    client_id   = var.client_id
    private_key = var.private_key
    scope       = ["kensho:app:link", "kensho:app:scribe"]
    token_url   = var.token_url
  })

  # After an update that failed, the provider has the new key in the state, and no read
  # to tell it that Vault still has the old one: the next plan would find nothing to
  # do. A replacement that failed is tried again. It does not take the credential away
  # meanwhile, as nothing is deleted: that is left to the mount's end.
  disable_delete = true
  lifecycle {
    replace_triggered_by = [terraform_data.private_key]
  }
}

resource "terraform_data" "private_key" {
  triggers_replace = sha256(var.private_key)
}

# Tokens for Link alone, under a name of the application's own.
resource "vault_generic_endpoint" "role" {
  path                 = "${vault_mount.kensho.path}/roles/${local.role}"
  ignore_absent_fields = true

  # Durations are in seconds, as the engine returns them: "15m" would be a change in
  # every plan.
  data_json = jsonencode({
    config  = local.credential
    scope   = ["kensho:app:link"]
    ttl     = 900
    min_ttl = 300
  })

  # A role needs its credential.
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
  description = "What the application reads."
  value       = "${vault_mount.kensho.path}/creds/${local.role}"
}

output "policy" {
  description = "The policy that lets it: give it to the application's auth role."
  value       = vault_policy.role.name
}
