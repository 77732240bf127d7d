# The least that a token needs to apply main.tf and to destroy it again. It may not
# read an access token.

# The mount. Newer providers read it alone, older ones the list.
path "sys/mounts" {
  capabilities = ["read"]
}
path "sys/mounts/kensho" {
  capabilities = ["create", "read", "update", "delete"]
}
path "sys/mounts/kensho/tune" {
  capabilities = ["update"]
}

# Credentials and roles. The secrets in a credential do not come out again.
path "kensho/config/kensho/*" {
  capabilities = ["create", "read", "update", "delete"]
}
path "kensho/roles/*" {
  capabilities = ["create", "read", "update", "delete"]
}

# The applications' policies. Only their names can be limited, not what they allow:
# guard this token as one that may read.
path "sys/policies/acl/kensho-*" {
  capabilities = ["create", "read", "update", "delete"]
}

# The provider works with a token of its own, which ends with the run.
path "auth/token/create" {
  capabilities = ["update"]
}
