# For an application that reads a token without a lease, from token/ instead of creds/.
# Grant this or app.hcl, depending on how the application reads.

path "kensho/token/prod" {
  capabilities = ["read"]
}
