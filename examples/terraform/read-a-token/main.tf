# Reads an access token and calls the vendor's API with it. The token is in no state and in no plan.
#
#   export VAULT_ADDR=https://vault.example.com VAULT_TOKEN=...
#   export TF_VAR_api_url=https://api.example.com/...
#   tofu init
#   tofu apply
#
# You can use terraform instead of tofu. VAULT_TOKEN needs the policy of the role, and nothing else.

terraform {
  # OpenTofu 1.11, or Terraform 1.11: ephemeral resources.
  required_version = ">= 1.11.0"

  required_providers {
    vault = {
      source  = "hashicorp/vault"
      version = ">= 5.8.0, < 6.0.0" # the first with an ephemeral vault_generic_secret
    }
  }
}

provider "vault" {
  # A child token would need the right to create one.
  skip_child_token = true
}

# Terraform reads an ephemeral resource in each plan and each apply, and stores nothing of it. Read
# token/ instead of creds/, because Terraform would not revoke the leases. A data source would
# store the token in the state.
ephemeral "vault_generic_secret" "token" {
  path = var.token_path
}

# The token can also configure a provider:
#
#   provider "example" {
#     token = ephemeral.vault_generic_secret.token.data.access_token
#   }
#
# curl reads the header from its standard input, because other processes can see arguments.
resource "terraform_data" "call" {
  triggers_replace = var.api_url

  provisioner "local-exec" {
    command = "printf %s \"$HEADER\" | curl -fsS -o /dev/null -H @- \"$API_URL\""
    environment = {
      API_URL = var.api_url
      HEADER  = ephemeral.vault_generic_secret.token.data.http_header
    }
  }
}
