#!/bin/sh
# Creates an AppRole with one policy for Vault Agent or Proxy, and writes its role-id and
# secret-id to the current directory.
#
#     ./approle.sh kensho-app ../policies/app.hcl
#
# Run it with VAULT_ADDR and the VAULT_TOKEN of an administrator. If the machine already has
# an identity (Kubernetes or a cloud), use that auth method instead: it needs no secret-id.
#
# The secret-id expires after 30 days, so a copy in a backup or on an old disk becomes useless.
# Agent needs it when its Vault token reaches token_max_ttl. Run this script again within 30
# days, by hand or from a job. To change the time, set SECRET_ID_TTL. To bind the secret-id to
# the address of the machine, set secret_id_bound_cidrs on the role, and token_bound_cidrs for the
# Vault tokens. Agent logs in at each start and once a day, so secret_id_num_uses would have to
# allow that many logins.
#
# To send the secret-id to another machine, wrap it here with `vault write -wrap-ttl=5m -force
# -field=wrapping_token auth/approle/role/NAME/secret-id`, and unwrap it there with `vault unwrap
# -field=secret_id TOKEN`. It can be unwrapped only once, so you notice if it was intercepted.
set -eu
name=$1
policy=$2

vault policy write "$name" "$policy"
vault auth list -format=json | grep -q '"approle/"' || vault auth enable approle

# The role also has Vault's default policy, with which Agent can renew its Vault token.
vault write "auth/approle/role/$name" token_policies="$name" token_ttl=1h token_max_ttl=24h \
    secret_id_ttl="${SECRET_ID_TTL:-720h}"

umask 077
vault read -field=role_id "auth/approle/role/$name/role-id" >role-id
vault write -force -field=secret_id "auth/approle/role/$name/secret-id" >secret-id
