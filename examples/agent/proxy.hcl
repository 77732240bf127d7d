# Vault Proxy logs in for applications that use Vault's API but have no Vault token:
#
#     ./approle.sh kensho-app ../policies/app.hcl
#     VAULT_ADDR=https://vault.example.com:8200 vault proxy -config=proxy.hcl
#
#     curl --unix-socket proxy.sock http://localhost/v1/kensho/creds/prod
#
# Proxy forwards each read to Vault, and the engine answers from its cache. Proxy's own cache
# would not help: it does not cache leases that cannot be renewed.

auto_auth {
  method "approle" {
    config = {
      role_id_file_path                   = "role-id"
      secret_id_file_path                 = "secret-id"
      remove_secret_id_file_after_reading = false
    }
  }
}

api_proxy {
  # If an application sends its own Vault token, Proxy uses that one.
  use_auto_auth_token = true
}

# Every process that can connect can read the token. A socket requires write permission, which
# only the user of Proxy has. A TCP listener on a loopback address would be open to every process
# of the machine.
listener "unix" {
  address     = "proxy.sock"
  tls_disable = true

  # For applications of other users. Proxy ignores these unless all three are set:
  # socket_mode  = "0660"
  # socket_user  = "vault-proxy"
  # socket_group = "kensho-app"
}
