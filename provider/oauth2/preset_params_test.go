package oauth2

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// validValue returns a valid value of a parameter.
func validValue(t *testing.T, param Param) string {
	t.Helper()
	for _, value := range []string{param.Default, "acme", "1234567"} {
		if value != "" && param.whole.MatchString(value) {
			return value
		}
	}
	require.Fail(t, "no value is known", param.Name)
	return ""
}

// In every preset, an operator may paste a host or a URL that contains the value.
func TestAParamIsExtractedFromAHostOrURL(t *testing.T) {
	pasted := 0
	eachPreset(t, func(t *testing.T, p Preset) {
		values := map[string]string{}
		for _, param := range p.Params {
			values[param.Name] = validValue(t, param)
		}
		for _, param := range p.Params {
			value := values[param.Name]
			forms := []string{value, " " + value + " "}
			for _, suffix := range p.suffixes(param) {
				host := value + suffix
				forms = append(forms, host, strings.ToUpper(host), "https://"+host, "https://"+host+"/", "http://"+host+"/some/page?a=b#c")
			}
			for _, template := range p.templates() {
				if strings.HasPrefix(template, "https://") && strings.Contains(template, "{"+param.Name+"}") {
					url := fill(template, values)
					forms = append(forms, url, url+"?a=b", strings.TrimPrefix(url, "https://"))
				}
			}
			for _, form := range forms {
				got, err := p.value(param, form)
				require.NoError(t, err, form)
				assert.Equal(t, value, got, form)
				pasted++
			}
		}
	})
	assert.Greater(t, pasted, 60)
}

func TestAPastedParamIsAcceptedOrRefusedWithTheFix(t *testing.T) {
	for _, row := range []struct{ preset, param, given, value, says string }{
		{"salesforce", "domain", "acme.my.salesforce.com", "acme", ""},
		{"salesforce", "domain", "https://ACME--dev.sandbox.my.salesforce.com/", "acme--dev.sandbox", ""},
		{"salesforce", "domain", "https://acme.lightning.force.com/lightning/page/home", "acme", ""},
		{"salesforce", "domain", "acme-dev-ed.develop.my.salesforce-setup.com", "acme-dev-ed.develop", ""},
		{"salesforce", "login", "https://test.salesforce.com", "test", ""},
		{"okta", "domain", "https://acme-admin.okta.com/admin/dashboard", "acme", ""},
		{"okta", "domain", "Acme", "acme", ""},
		{"okta", "server", "https://acme.okta.com/oauth2/aus9o8x7", "aus9o8x7", ""},
		{"auth0", "domain", "https://acme.us.auth0.com/oauth/token", "acme.us", ""},
		{"docusign", "host", "account-d.docusign.com", "account-d", ""},
		{"paypal", "host", "https://api-m.sandbox.paypal.com", "api-m.sandbox", ""},
		{"entra", "tenant", "https://login.microsoftonline.com/acme.onmicrosoft.com/v2.0", "acme.onmicrosoft.com", ""},
		{"entra", "tenant", "https://acme.onmicrosoft.com/", "acme.onmicrosoft.com", ""},

		{"salesforce", "domain", "acme.com", "", `preset_params: invalid domain "acme.com" for the preset salesforce; give the part of My Domain before .my.salesforce.com (acme, or acme--dev.sandbox); if your account has another host, set token_url instead of the preset`},
		{"salesforce", "domain", "https://login.salesforce.com", "", "give the part of My Domain before .my.salesforce.com"},
		{"salesforce", "domain", "acme.my.salesforce.com.evil.example", "", "invalid domain"},
		{"okta", "domain", "acme.oktapreview.com", "", "if your account has another host, set token_url"},
		{"okta", "domain", "evil.example/acme.okta.com", "", "invalid domain"},
		{"okta", "domain", "evil.example/.okta.com", "", "invalid domain"},
		{"okta", "domain", "a@evil.example?.okta.com", "", "invalid domain"},
		{"okta", "domain", ".okta.com", "", "(acme)"},
		{"entra", "tenant", "login.microsoftonline.com", "", "give the tenant's ID, or one of its domain names (acme.onmicrosoft.com)"},
		{"entra", "tenant", "https://portal.azure.com/#home", "", "give the tenant's ID"},
		{"entra", "tenant", "https://login.microsoftonline.com/../evil", "", "give the tenant's ID"},
		{"box", "enterprise_id", "https://acme.app.box.com/", "", "give the ID of the enterprise (1234567)"},
		{"zoom", "account_id", "https://acme.zoom.us", "", "give the account's ID"},
	} {
		p := preset(t, row.preset)
		for _, param := range p.Params {
			if param.Name != row.param {
				continue
			}
			value, err := p.value(param, row.given)
			if row.says != "" {
				assertInvalid(t, err, row.says)
				continue
			}
			require.NoError(t, err, row.given)
			assert.Equal(t, row.value, value, row.given)
		}
	}
}

func TestThePresetForAnotherNameIsSuggested(t *testing.T) {
	for given, says := range map[string]string{
		"Entra":              `unknown preset "Entra"; did you mean preset=entra (Microsoft Entra ID)?`,
		"azure":              "did you mean preset=entra",
		"Microsoft-Entra-ID": "did you mean preset=entra",
		"SalesForce":         "did you mean preset=salesforce",
		"GCP":                "did you mean preset=google",
		"git-lab":            "did you mean preset=gitlab",
		"acme":               "(allowed: auth0, ",
		"":                   "(allowed: auth0, ",
	} {
		_, err := PresetNamed(given)
		assertInvalid(t, err, says)
	}
	names := map[string]bool{}
	eachPreset(t, func(t *testing.T, p Preset) {
		for _, name := range append(p.OtherNames, p.Name) {
			assert.Equal(t, plainName(name), name)
			assert.False(t, names[name], name)
			names[name] = true
		}
	})
}

func TestAClientSecretWithoutAKeySelectsClientCredentials(t *testing.T) {
	for own, grant := range map[string]string{
		`{"preset": "salesforce", "preset_params": {"domain": "a"}, "client_secret": "s"}`:                                               "client_credentials",
		`{"preset": "salesforce", "preset_params": {"domain": "a"}, "client_secret": "s", "private_key": "k", "assertion_subject": "u"}`: "jwt_bearer",
		`{"preset": "salesforce", "preset_params": {"domain": "a"}, "client_secret": "s", "assertion_subject": "u"}`:                     "jwt_bearer",
	} {
		assert.Equal(t, grant, expanded(t, own).GrantType, own)
	}
	credential := open(t, map[string]any{"preset": "salesforce", "preset_params": map[string]string{"domain": "acme.my.salesforce.com"}, "client_id": "c", "client_secret": "s"})
	assert.Equal(t, ClientCredentials, credential.(*Client).GrantType)
	assert.Equal(t, "https://acme.my.salesforce.com/services/oauth2/token", credential.(*Client).Server.Token)
}
