# Like file.hcl, without a lease. Vault stores nothing for a read, which matters if many Agents
# read often. Without leases, Vault cannot list who has a token.
#
#     ./approle.sh kensho-app ../policies/app-lease-free.hcl
#     VAULT_ADDR=https://vault.example.com:8200 vault agent -config=lease-free.hcl

auto_auth {
  method "approle" {
    config = {
      role_id_file_path                   = "role-id"
      secret_id_file_path                 = "secret-id"
      remove_secret_id_file_after_reading = false
    }
  }
}

template {
  source               = "lease-free.ctmpl"
  destination          = "kensho-token"
  perms                = "0600"
  error_on_missing_key = true
}

# Agent reads again one second after the ttl of the response, when there is a newer token, and
# because the response has a rotation_period. All Agents read in the same second and share one
# exchange.
