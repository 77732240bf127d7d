# Whoever is called when a token has leaked: has the engine forget it and fetch another,
# unseen, and sees that it did. The reader's lease ends with the reader's own Vault token,
# which is to be revoked as well.

path "kensho/refresh/prod" {
  capabilities = ["update"]
}

path "kensho/status/*" {
  capabilities = ["read", "list"]
}
