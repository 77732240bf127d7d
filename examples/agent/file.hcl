# Vault Agent keeps a living access token in a file, for an application that knows
# nothing of Vault and reads the file anew for each request (or each connection).
#
#     ./approle.sh kensho-app ../policies/app.hcl
#     VAULT_ADDR=https://vault.example.com:8200 vault agent -config=file.hcl
#
# All paths are relative to where Agent is started.

auto_auth {
  method "approle" {
    config = {
      role_id_file_path   = "role-id"
      secret_id_file_path = "secret-id"

      # Kept, so that Agent can log in again when it is restarted. Leave this out to
      # have the file removed once it is read, if something brings another one for
      # each start.
      remove_secret_id_file_after_reading = false
    }
  }
}

template {
  source      = "token.ctmpl"
  destination = "kensho-token"
  perms       = "0600"

  # A template that names a field which is not there is an error, not "<no value>".
  error_on_missing_key = true

  # For an application that reads the file at its start alone:
  # exec { command = ["systemctl", "reload", "app"] }
}

# The lease cannot be renewed. Agent reads again after 85 to 95 % of it, and gets a
# fresher token each time: one exchange at the vendor for each, however many Agents.
