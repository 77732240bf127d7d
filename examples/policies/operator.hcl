# An operator: stores credentials, says in roles what applications may have of them,
# and looks after their health. Reads no token: creds/ and token/ are not named, and
# what no policy names is denied.
#
# This is for people whom you would hand the credential itself. Secrets do not come out
# of config/, and a change of where they are sent has to give them again; but who may
# write keypair/ too says which credentials and hosts a key pair signs for.

# Credentials. The list is of names; a read leaves the secrets out.
path "kensho/config/*" {
  capabilities = ["create", "update", "patch", "read", "list", "delete"]
}

# Key pairs that are made in Vault. Reads are of public halves alone; keypair/*/activate
# changes over to a new pair.
path "kensho/keypair/*" {
  capabilities = ["create", "update", "read", "list", "delete"]
}

# Roles: narrower views of a credential, each with a policy of its own.
path "kensho/roles/*" {
  capabilities = ["create", "update", "patch", "read", "list", "delete"]
}

# Have the engine exchange again, unseen: drop=true only after a leak.
path "kensho/refresh/*" {
  capabilities = ["update"]
}

path "kensho/status/*" {
  capabilities = ["read", "list"]
}

path "kensho/metrics" {
  capabilities = ["read"]
}
