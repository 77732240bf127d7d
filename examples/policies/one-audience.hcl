# For an application that may read only part of what a role has: tokens of the role orders for one
# audience. The same works for scope, resource and the other fields that narrow tokens.
#
# required_parameters makes the application name the audience; without it, a read without parameters
# gets the whole role. Give each value in full: Vault compares the text that was sent, so a value with
# a * would also allow a list of several. Do not use denied_parameters with values: a list is
# not denied.

path "api/creds/orders" {
  capabilities        = ["read"]
  required_parameters = ["audience"]
  allowed_parameters = {
    "audience" = ["https://billing.example.com"]
    "min_ttl"  = []
  }
}

path "api/token/orders" {
  capabilities        = ["read"]
  required_parameters = ["audience"]
  allowed_parameters = {
    "audience" = ["https://billing.example.com"]
    "min_ttl"  = []
  }
}
