#!/usr/bin/env bash
# Searches with Sitecore Search, with a token from Vault, and prints the answer. It logs in by AppRole, with
# the files that examples/agent/approle.sh writes. It needs curl and jq.
#
# The address of your domain is in the Customer Engagement Console, in Developer Resources, API Access. In some
# regions its host is another, such as discover-euc1.sitecorecloud.io. SEARCH_WIDGET is the rfk_id of a search
# widget. Set the locale below to one of your domain.
#
#     export VAULT_ADDR=https://vault.example.com SEARCH_WIDGET=rfkid_7
#     export SEARCH_URL=https://discover.sitecorecloud.io/discover/v2/123456789
#     ./sitecore.sh 'cloud computing'
set -euo pipefail

: "${VAULT_ADDR:?}" "${SEARCH_URL:?}" "${SEARCH_WIDGET:?}"
keyphrase=${1:?'say what to search for'}
path=${TOKEN_PATH:-sitecore/token/prod}

# Calls an address with a header that has a secret, and the other arguments of curl. The secret reaches curl
# in a file of the shell: the arguments of a process are visible to others.
send() { # <header> [argument ...]
	curl -sS --max-time 10 --fail-with-body --config <(printf 'header = "%s"\n' "$1") "${@:2}"
}

vault_token=$(jq -n --rawfile role role-id --rawfile secret secret-id \
	'{role_id: $role | rtrimstr("\n"), secret_id: $secret | rtrimstr("\n")}' |
	curl -sS --max-time 10 --fail-with-body --data @- "$VAULT_ADDR/v1/auth/approle/login" |
	jq -er '.auth.client_token // error((.errors // ["the login has no token"]) | join("; "))')
header=$(send "X-Vault-Token: $vault_token" "$VAULT_ADDR/v1/$path" |
	jq -er '.data.http_header // error((.errors // ["the answer has no http_header"]) | join("; "))')

jq -n --arg keyphrase "$keyphrase" '{
	context: {locale: {country: "us", language: "en"}},
	widget: {items: [{
		rfk_id: env.SEARCH_WIDGET, entity: "content",
		search: {content: {}, query: {keyphrase: $keyphrase}}
	}]}
}' | send "$header" --header 'Content-Type: application/json' --data @- "$SEARCH_URL"
