# For a person or a job that rotates a secret: have the engine replace it at its vendor, and check
# the result. The former and the new secret are in no answer. This policy cannot read or change the
# credential, and cannot read a token.
#
# With rotation_grace=0 the former secret ends at once, for all that use it. To forbid that, add
# denied_parameters = { "rotation_grace" = [] }.

path "entra/config/entra/prod/rotate" {
  capabilities = ["update"]
}

path "entra/status/prod" {
  capabilities = ["read"]
}
