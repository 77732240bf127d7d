# Whoever brings a new refresh token, a person or a job: gives it to the credential that
# there is, and sees whether it works. Neither the URLs, which say where secrets are sent,
# nor any other setting can be written; so this is no way to the secret that is stored.

path "kensho/config/kensho/prod" {
  capabilities       = ["update"]
  allowed_parameters = { "refresh_token" = [] }
}

path "kensho/status/prod" {
  capabilities = ["read"]
}
