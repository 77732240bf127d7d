# For a person or a job that stores and deletes the credentials of people, which all use the client
# crm. The policy pins that client, because a credential can use any client of the mount. It cannot
# read a token or change the client. It can delete any credential of the vendor, so keep people's
# credentials in a mount of their own.
#
# The client must have grant_type=refresh_token, so that its credentials yield no tokens of the
# application itself.

path "saas/config/oauth2/*" {
  capabilities        = ["create", "update", "delete"]
  required_parameters = ["client"]
  allowed_parameters = {
    "client"        = ["crm"]
    "refresh_token" = []
    "description"   = []
    "expires"       = []
  }
}

# Who is there, and whose consent is missing. Required parameters would also apply to a read of
# config/.
path "saas/status/*" {
  capabilities = ["read", "list"]
}
