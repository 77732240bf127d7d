# For a person or a job that writes a new refresh token: write it to an
# existing credential, with its expiry date, and check that it works. The policy cannot change a
# URL or any other setting, so it cannot send the stored secret elsewhere.

path "kensho/config/kensho/prod" {
  capabilities       = ["update"]
  allowed_parameters = { "refresh_token" = [], "expires" = [] }
}

path "kensho/status/prod" {
  capabilities = ["read"]
}
