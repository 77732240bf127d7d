# As file.hcl, with a token that is not leased: Vault writes nothing for a read, which
# counts where many Agents read often. What a lease is good for is lost too: there is
# no list of who holds a token.
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

# The answer's rotation_period and ttl tell Agent when to read again: ttl and a second
# later, when there is a fresher token. Every Agent reads in the same second then, and
# all of them share one exchange.
