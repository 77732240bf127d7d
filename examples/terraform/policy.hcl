# The minimum that a token needs to apply and destroy main.tf. It cannot read an access token.

# The mount. Newer versions of the provider read only the mount, older ones the list.
path "sys/mounts" {
  capabilities = ["read"]
}
path "sys/mounts/kensho" {
  capabilities = ["create", "read", "update", "delete"]
}
path "sys/mounts/kensho/tune" {
  capabilities = ["update"]
}

# Credentials and roles. A read returns no secret.
path "kensho/config/kensho/*" {
  capabilities = ["create", "read", "update", "delete"]
}
path "kensho/roles/*" {
  capabilities = ["create", "read", "update", "delete"]
}

# The policies of applications. Vault can limit their names but not what they allow, so protect
# this token like one that can read access tokens.
path "sys/policies/acl/kensho/*" {
  capabilities = ["create", "read", "update", "delete"]
}

# The provider creates a child token, which is revoked after the run.
path "auth/token/create" {
  capabilities = ["update"]
}
