package docwalk

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// ofOauthapp are the paths, fields, options and providers of the secrets engine oauthapp v3.4.0, and the
// paths of its earlier versions.
var ofOauthapp = map[string]string{
	"config": `default_server tune_provider_timeout_seconds tune_provider_timeout_expiry_leeway_factor
		tune_refresh_check_interval_seconds tune_refresh_expiry_delta_factor tune_reap_check_interval_seconds
		tune_reap_dry_run tune_reap_non_refreshable_seconds tune_reap_revoked_seconds
		tune_reap_transient_error_attempts tune_reap_transient_error_seconds tune_reap_server_deleted_seconds`,
	"servers/<name>": "client_id client_secret client_secrets auth_url_params provider provider_version provider_options",
	"Providers": `bitbucket github gitlab google microsoft_azure_ad oidc slack custom tenant issuer_url extra_data_fields=user_info
		extra_data_fields=id_token extra_data_fields=id_token_claims nonce auth_code_url device_code_url token_url auth_style=in_header auth_style=in_params`,
	"auth-code-url": "server auth_url_params redirect_url scopes state provider_options",
	"creds/<name>": `access_token expire_time type server extra_data maximum_expiry_seconds provider_options minimum_seconds
		grant_type=authorization_code code redirect_url grant_type=refresh_token refresh_token
		grant_type=urn:ietf:params:oauth:grant-type:device_code device_code scopes nonce tenant`,
	"self/<name>":               "minimum_seconds server scopes token_url_params maximum_expiry_seconds provider_options",
	"sts/<name>":                "scopes audiences resources minimum_seconds",
	"Paths of versions 1 and 2": "config config/auth_code_url config/self/<name> self/<name>/config",
}

// Each path and field of oauthapp is in the first column of a row.
func TestTheMigrationHasEachPathAndFieldOfOauthapp(t *testing.T) {
	page, err := os.ReadFile("../../../docs/migrating-from-oauthapp.md")
	require.NoError(t, err)
	sections := map[string]string{}
	for _, section := range strings.Split(string(page), "\n### ") {
		title, text, _ := strings.Cut(section, "\n")
		text, _, _ = strings.Cut(text, "\n## ")
		sections[strings.ReplaceAll(title, "`", "")] = text
	}
	for section, names := range ofOauthapp {
		var first strings.Builder
		for line := range strings.Lines(sections[section]) {
			if cells := strings.Split(line, "|"); len(cells) == 4 {
				assert.NotEmpty(t, strings.TrimSpace(cells[2]), line)
				first.WriteString(cells[1])
			}
		}
		for name := range strings.FieldsSeq(names) {
			assert.Contains(t, first.String(), "`"+name+"`", section)
		}
	}
}
