#!/usr/bin/env bash
# Calls a vendor's API once a second with a token from Vault. It logs in by AppRole, reads the token
# again when Vault has a newer one, and goes on with a valid token while Vault or the vendor is down.
# It needs curl and jq.
#
#     VAULT_ADDR=https://vault.example.com API_URL=https://api.example.com/v1/me ./client.sh
set -euo pipefail

path=${TOKEN_PATH:-kensho/token/prod}
retry=5 # seconds from a failed read to the next one
vault_token='' header='' expiry=0 read_again=0

# Secrets reach curl in a file of the shell: the arguments of a process are visible to others.
send() { # <configuration for curl> [argument ...]
	local config=$1
	shift
	curl -sS --max-time 10 --config <(printf '%s\n' "$config") "$@"
}

# Logs in by AppRole, with the files that examples/agent/approle.sh writes.
log_in() {
	vault_token=$(jq -n --rawfile role role-id --rawfile secret secret-id \
		'{role_id: $role | rtrimstr("\n"), secret_id: $secret | rtrimstr("\n")}' |
		curl -sS --max-time 10 --fail --data @- "$VAULT_ADDR/v1/auth/approle/login" | jq -er .auth.client_token)
}

# Prints the answer and, on the last line, its status.
read_path() {
	send "header = \"X-Vault-Token: $vault_token\"" --write-out '\n%{http_code}' "$VAULT_ADDR/v1/$path"
}

read_token() {
	local answer status
	answer=$(read_path) || return 1
	status=${answer##*$'\n'}
	if [ "$status" = 403 ]; then # not logged in, or not any more
		log_in || return 1
		answer=$(read_path) || return 1
		status=${answer##*$'\n'}
	fi
	answer=${answer%$'\n'*}
	if [ "$status" != 200 ]; then
		jq -r '.errors | join("; ")' <<<"$answer" >&2
		return 1
	fi
	local line end ttl
	line=$(jq -er .data.http_header <<<"$answer") || return 1
	end=$(jq -er '.data.expire_time | fromdateiso8601' <<<"$answer") || return 1
	ttl=$(jq -er '.data.ttl | numbers' <<<"$answer") || return 1
	header=$line expiry=$end read_again=$(($(date +%s) + ttl))
	echo "read a token that is valid for $((end - $(date +%s))) s; the next read is in $ttl s"
}

call() {
	if [ "$(date +%s)" -ge "$read_again" ] && ! read_token; then
		read_again=$(($(date +%s) + retry))
		echo 'no newer token' >&2
	fi
	if [ "$(date +%s)" -ge "$expiry" ]; then
		echo 'without a valid token' >&2
		return 1
	fi
	local status
	status=$(send "header = \"$header\"" --output /dev/null --write-out '%{http_code}' "$API_URL") || return 1
	if [ "$status" = 401 ]; then read_again=0; fi
	if [ "$status" != 200 ]; then
		echo "the vendor answers $status" >&2
	fi
}

while :; do
	call || true
	sleep 1
done
