# Vault Agent runs an application with a valid access token in its environment, and restarts
# it with each new token. Use this for an application that takes its settings only from the
# environment and starts fast. file.hcl needs no restarts.
#
#     ./approle.sh kensho-app ../policies/app.hcl
#     VAULT_ADDR=https://vault.example.com:8200 vault agent -config=exec.hcl

auto_auth {
  method "approle" {
    config = {
      role_id_file_path                   = "role-id"
      secret_id_file_path                 = "secret-id"
      remove_secret_id_file_after_reading = false
    }
  }
}

env_template "KENSHO_TOKEN" {
  contents             = "{{ with secret \"kensho/creds/prod\" }}{{ .Data.access_token }}{{ end }}"
  error_on_missing_key = true
}

exec {
  command = ["./app"]

  # Agent waits 2 seconds for further changes, sends the signal, and kills the application
  # after 30 seconds. If the application exits by itself, Agent exits with its exit code.
  restart_on_secret_changes = "always"
  restart_stop_signal       = "SIGTERM"
}
