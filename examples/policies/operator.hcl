# For an operator: store credentials and clients, write roles, begin consents, and check the health
# of credentials. This policy cannot read a token, because it does not name creds/ and token/.
#
# Grant it only to people whom you trust with the credentials. Config reads return no secret, and
# a write that changes where a secret is sent must give the secret again. But a writer of
# keypair/ decides for which credentials and hosts a key pair signs.

# Credentials. A list returns names, and a read returns no secret.
path "kensho/config/*" {
  capabilities = ["create", "update", "patch", "read", "list", "delete"]
}

# OAuth clients that credentials share. A write decides which secret all of these credentials use.
path "kensho/clients/*" {
  capabilities = ["create", "update", "patch", "read", "list", "delete"]
}

# Begin a person's consent to a credential.
path "kensho/authorize/*" {
  capabilities = ["read", "update"]
}

# Vendors, with what each needs. A writer of a definition decides where the secrets of its
# credentials will go, so grant create, update and delete to those who decide that.
path "kensho/vendors/*" {
  capabilities = ["read", "list"]
}

# Key pairs that Vault generates. A read returns only the public key. keypair/*/activate
# activates a pending key pair.
path "kensho/keypair/*" {
  capabilities = ["create", "update", "read", "list", "delete"]
}

# Roles: narrower views of a credential, each with a policy of its own.
path "kensho/roles/*" {
  capabilities = ["create", "update", "patch", "read", "list", "delete"]
}

# Exchange again, without reading the token. Use drop=true only after a leak.
path "kensho/refresh/*" {
  capabilities = ["update"]
}

path "kensho/status/*" {
  capabilities = ["read", "list"]
}

path "kensho/metrics" {
  capabilities = ["read"]
}
