# Vault Agent keeps a valid access token in a file, for an application that does not use Vault
# and reads the file for each request or connection.
#
#     ./approle.sh kensho-app ../policies/app.hcl
#     VAULT_ADDR=https://vault.example.com:8200 vault agent -config=file.hcl
#
# Paths are relative to the directory in which Agent starts.

auto_auth {
  method "approle" {
    config = {
      role_id_file_path   = "role-id"
      secret_id_file_path = "secret-id"

      # Agent needs the file to log in again after a restart. Remove this line if
      # another tool delivers a new secret-id for each start: Agent then deletes the file
      # after reading it.
      remove_secret_id_file_after_reading = false
    }
  }
}

template {
  source      = "token.ctmpl"
  destination = "kensho-token"
  perms       = "0600"

  # Fail on a field that does not exist, instead of writing "<no value>".
  error_on_missing_key = true

  # For an application that reads the file only at startup:
  # exec { command = ["systemctl", "reload", "app"] }
}

# The lease cannot be renewed. Agent reads again after 85 to 95 % of it, and gets a newer
# token each time. All Agents share one exchange at the vendor.
