# For the response to a leaked token: drop the cached token (refresh/prod with drop=true), which
# also revokes it if the vendor can, and exchange for a new one. This policy cannot read a token.
# If the vendor is unavailable at that moment, every read fails until it is available again.
#
# The reader of the leaked token has its own Vault token and lease. Revoke that Vault token too.
# Grant this policy instead of responder.hcl, not in addition to it: a parameter that one policy
# denies cannot be granted by another.

path "kensho/refresh/prod" {
  capabilities = ["update"]
}

path "kensho/status/*" {
  capabilities = ["read", "list"]
}
