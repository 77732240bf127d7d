# An application: it reads one token as a lease, and nothing else.
#
# Name the path in full. A glob such as kensho/creds/* would let it read the tokens of
# credentials that are yet to come.

path "kensho/creds/prod" {
  capabilities = ["read"]
}
