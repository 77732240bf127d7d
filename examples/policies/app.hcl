# For an application that reads one token with a lease, and nothing else.
#
# Name the path in full. A glob such as kensho/creds/* also grants the tokens of credentials
# that are created later.

path "kensho/creds/prod" {
  capabilities = ["read"]
}
