# Whoever brings a new refresh token, a person or a job: gives it to the credential that
# there is, with the date on which it expires, and sees whether it works. Neither the URLs,
# which say where secrets are sent, nor any other setting can be written; so this is no way
# to the secret that is stored.

path "kensho/config/kensho/prod" {
  capabilities       = ["update"]
  allowed_parameters = { "refresh_token" = [], "expires" = [] }
}

path "kensho/status/prod" {
  capabilities = ["read"]
}
