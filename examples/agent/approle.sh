#!/bin/sh
# Makes a machine identity for Vault Agent or Proxy: an AppRole with one policy. Its
# two halves go into the current directory, as role-id and secret-id.
#
#     ./approle.sh kensho-app ../policies/app.hcl
#
# Run it with VAULT_ADDR and the VAULT_TOKEN of an administrator. Where the machine has
# an identity already (Kubernetes, a cloud's), use that auth method instead: it has no
# secret-id to hand over.
#
# The secret-id expires after 30 days, so that a copy which stays behind in a backup or on an
# old disk is worth nothing later. Agent needs it whenever its Vault token ends (after
# token_max_ttl): run this again before the 30 days are over, or have a job do so. SECRET_ID_TTL
# takes another time. secret_id_bound_cidrs binds it to the machine's address as well.
#
# To hand it to another machine, wrap it: `vault write -wrap-ttl=5m -force -field=wrapping_token
# auth/approle/role/NAME/secret-id` here, and `vault unwrap -field=secret_id TOKEN` there. Only
# one of them can unwrap it, and a thief is noticed.
set -eu
name=$1
policy=$2

vault policy write "$name" "$policy"
vault auth list -format=json | grep -q '"approle/"' || vault auth enable approle

# Vault's own default policy, which the role has too, lets Agent renew its Vault token.
vault write "auth/approle/role/$name" token_policies="$name" token_ttl=1h token_max_ttl=24h \
    secret_id_ttl="${SECRET_ID_TTL:-720h}"

umask 077
vault read -field=role_id "auth/approle/role/$name/role-id" >role-id
vault write -force -field=secret_id "auth/approle/role/$name/secret-id" >secret-id
