# Stores a Kensho key pair in Vault, and allows one application to read tokens for Link.
#
#   export VAULT_ADDR=https://vault.example.com VAULT_TOKEN=...
#   export TF_VAR_client_id=... TF_VAR_private_key="$(cat kensho.pem)"
#   tofu init
#   tofu apply
#
# You can use terraform instead of tofu. Register the plugin before. VAULT_TOKEN needs at least
# the policy in policy.hcl. The vault command must be installed, and writes the key.
#
# The state and plans contain no secret. To replace the key, set TF_VAR_private_key to the new one
# and raise private_key_version. At other times, TF_VAR_private_key can be unset.

terraform {
  required_version = ">= 1.11.0"

  required_providers {
    vault = {
      source  = "hashicorp/vault"
      version = ">= 5.8.0, < 6.0.0"
    }
  }
}

provider "vault" {}

module "kensho" {
  source = "./modules/tokenbroker"

  path        = "kensho"
  description = "Access tokens of Kensho"

  vendor     = "kensho"
  credential = "batch"
  settings = {
    client_id = var.client_id
    scope     = ["kensho:app:link", "kensho:app:scribe"]
    token_url = var.token_url
  }
  secret         = { private_key = var.private_key }
  secret_version = var.private_key_version

  # Tokens only for Link, under a name for the application.
  roles = {
    link-reports = {
      scope   = ["kensho:app:link"]
      ttl     = 900
      min_ttl = 300
    }
  }
}

output "creds_path" {
  description = "The path that the application reads, for a token with a lease."
  value       = module.kensho.creds_paths["link-reports"]
}

output "token_path" {
  description = "The path that the application reads, for a token without a lease."
  value       = module.kensho.token_paths["link-reports"]
}

output "policy" {
  description = "The policy to add to the auth role of the application."
  value       = module.kensho.policies["link-reports"]
}
