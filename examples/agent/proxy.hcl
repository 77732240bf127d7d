# Vault Proxy logs in for applications that speak Vault's API and have no Vault token:
#
#     ./approle.sh kensho-app ../policies/app.hcl
#     VAULT_ADDR=https://vault.example.com:8200 vault proxy -config=proxy.hcl
#
#     curl --unix-socket proxy.sock http://localhost/v1/kensho/creds/prod
#
# Each read goes to Vault, where the engine has the token in its cache; Proxy needs no
# cache of its own, and would keep none of a lease that cannot be renewed.

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
  # An application that sends a Vault token of its own is served with that.
  use_auto_auth_token = true
}

# Whoever can connect can read the token. On a socket that takes the permission to
# write, which it has for Proxy's own user; a TCP listener on a loopback address would
# let in every process of the machine.
listener "unix" {
  address     = "proxy.sock"
  tls_disable = true

  # For applications of other users. Set all three, or none counts:
  # socket_mode  = "0660"
  # socket_user  = "vault-proxy"
  # socket_group = "kensho-app"
}
