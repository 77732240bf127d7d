# Whoever is on call: has the engine exchange a credential again, and sees whether that
# worked. The cached token stays in use until the next one is stored, so that an attempt
# costs readers nothing.
#
# drop=true, which takes the token away from all readers first, is denied: during an outage
# of the vendor nobody would get another. leak.hcl grants it.

path "kensho/refresh/prod" {
  capabilities      = ["update"]
  denied_parameters = { "drop" = [] }
}

path "kensho/status/*" {
  capabilities = ["read", "list"]
}
