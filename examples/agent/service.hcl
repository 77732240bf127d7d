# The configuration of Agent for vault-agent-kensho.service. It is that of file.hcl, with the paths
# of a service:
#
#     /etc/vault-agent-kensho/           service.hcl, token.ctmpl, environment, role-id, secret-id
#     /run/credentials/vault-agent-kensho.service/   copies of role-id and secret-id, by systemd
#     /run/vault-agent-kensho/           the token

auto_auth {
  method "approle" {
    config = {
      role_id_file_path   = "/run/credentials/vault-agent-kensho.service/role-id"
      secret_id_file_path = "/run/credentials/vault-agent-kensho.service/secret-id"

      # Agent cannot remove systemd's copy, and needs it to log in again.
      remove_secret_id_file_after_reading = false
    }
  }
}

template {
  source               = "/etc/vault-agent-kensho/token.ctmpl"
  destination          = "/run/vault-agent-kensho/kensho-token"
  perms                = "0640"
  error_on_missing_key = true
}

# After several minutes of failed reads, exit instead of giving up. systemd starts Agent again.
template_config {
  exit_on_retry_failure = true
}
