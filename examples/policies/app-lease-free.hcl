# An application that reads the same token without a lease: token/ where app.hcl has
# creds/. Grant one or the other, by how it reads.

path "kensho/token/prod" {
  capabilities = ["read"]
}
