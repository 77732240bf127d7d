# Whoever answers for a leaked token: has the engine drop it (refresh/prod with drop=true),
# revoke it where the vendor can, and exchange for another, without seeing either. If the
# vendor is unavailable then, every read fails until it is back.
#
# The lease of whoever read the token ends with that reader's own Vault token, which must be
# revoked as well. Give this policy in place of responder.hcl and not beside it: what one
# policy of a token denies, no other grants.

path "kensho/refresh/prod" {
  capabilities = ["update"]
}

path "kensho/status/*" {
  capabilities = ["read", "list"]
}
