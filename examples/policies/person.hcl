# For each person: consent to the own credential, and read its token. One policy serves all people,
# because the name of the credential is that of the reader's identity in Vault.
#
# The name of the entity must be the name of the credential, such as alice@example.com. If another
# part of the identity has the address, use one of these instead:
#   {{identity.entity.metadata.email}}
#   {{identity.entity.aliases.ACCESSOR.name}}, with the accessor of an auth method (vault auth list)
# People must not be able to choose it. In some versions of Vault, a name that is + or ends in * is
# a wildcard of the policy.

# Begin and end a consent, and see how far it has come.
path "saas/authorize/{{identity.entity.name}}" {
  capabilities = ["read", "update"]
}

path "saas/creds/{{identity.entity.name}}" {
  capabilities = ["read"]
}

# Whether a new consent is required, and until when the token is valid.
path "saas/status/{{identity.entity.name}}" {
  capabilities = ["read"]
}
