# For the owner of the OAuth clients that credentials share: store clients and rotate their secrets.
# This policy cannot read a token or store a credential.
#
# Grant it only to people whom you trust with the secret of a client. Reads return no secret. A
# client that credentials use cannot be deleted, but a write can make it unusable for all of them.

path "saas/clients/*" {
  capabilities = ["create", "update", "patch", "read", "list", "delete"]
}

# See whether the new secret works, and have a credential try it at once.
path "saas/status/*" {
  capabilities = ["read", "list"]
}

path "saas/refresh/*" {
  capabilities      = ["update"]
  denied_parameters = { "drop" = [] }
}
