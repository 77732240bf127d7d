# For an on-call responder: exchange a credential again and check the result. The cached token
# stays in use until the next one is stored, so an attempt does not affect readers.
#
# drop=true is denied, because it takes the token from all readers before the exchange. During an
# outage of the vendor, every read would then fail. leak.hcl grants it.

path "kensho/refresh/prod" {
  capabilities      = ["update"]
  denied_parameters = { "drop" = [] }
}

path "kensho/status/*" {
  capabilities = ["read", "list"]
}
