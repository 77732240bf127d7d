package kensho_test

import (
	"maps"
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider"
)

func TestAnAssertionIsDatedByTheVendorsClock(t *testing.T) {
	for name, test := range map[string]struct {
		conduct vendorsim.Conduct
		calls   int // made by the first exchange
	}{
		"right":             {vendorsim.Conduct{StrictDates: true}, 1},
		"40 ms behind":      {vendorsim.Conduct{StrictDates: true, Skew: -40 * time.Millisecond}, 1},
		"1 s behind":        {vendorsim.Conduct{StrictDates: true, Skew: -time.Second}, 1},
		"20 s behind":       {vendorsim.Conduct{StrictDates: true, Skew: -20 * time.Second}, 2},
		"4 min behind":      {vendorsim.Conduct{StrictDates: true, Skew: -4 * time.Minute}, 2},
		"1 s ahead":         {vendorsim.Conduct{StrictDates: true, Skew: time.Second}, 1},
		"8 s ahead":         {vendorsim.Conduct{StrictDates: true, Skew: 8 * time.Second}, 2},
		"20 s ahead":        {vendorsim.Conduct{StrictDates: true, Skew: 20 * time.Second}, 2},
		"20 s ahead, slow":  {vendorsim.Conduct{StrictDates: true, Skew: 20 * time.Second, Latency: 4 * time.Second}, 2},
		"20 s behind, slow": {vendorsim.Conduct{StrictDates: true, Skew: -20 * time.Second, Latency: 4 * time.Second}, 2},
		"4 min ahead":       {vendorsim.Conduct{StrictDates: true, Skew: 4 * time.Minute}, 2},
		"4 min behind, lax": {vendorsim.Conduct{Skew: -4 * time.Minute}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim := vendorsim.New()
				sim.Behave(test.conduct)
				sim.AddClient("0oaclient", &key().PublicKey, "")
				clocks := &provider.Clocks{}
				fields := map[string]any{"client_id": "0oaclient", "private_key": keyPEM()}
				credential := openWith(t, sim, clocks, fields)
				exchange(t, sim, credential, provider.Grant{})
				assert.Len(t, sim.Calls(), test.calls, "the first response shows the vendor's clock")
				for range 20 {
					time.Sleep(17 * time.Millisecond)
					exchange(t, sim, credential, provider.Grant{})
				}
				assert.Len(t, sim.Calls(), test.calls+20)
				exchange(t, sim, openWith(t, sim, clocks, fields), provider.Grant{})
				assert.Len(t, sim.Calls(), test.calls+21, "the clock belongs to the host, and a write of the credential keeps it")
			})
		})
	}
}

func TestGuarantee17NoAssertionIsSignedForATimeFarFromOurClock(t *testing.T) {
	for name, skew := range map[string]time.Duration{
		"8 years ahead": 2920 * 24 * time.Hour, "a day behind": -24 * time.Hour, "6 min ahead": 6 * time.Minute, "6 min behind": -6 * time.Minute,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim := vendorsim.New()
				sim.AddClient("0oaclient", &key().PublicKey, "")
				credential := open(t, sim, map[string]any{"client_id": "0oaclient", "private_key": keyPEM()})
				sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Date", time.Now().Add(skew).UTC().Format(http.TimeFormat))
					w.WriteHeader(http.StatusUnauthorized)
				})})
				_, err := credential.Exchange(t.Context(), provider.Grant{})
				require.ErrorContains(t, err, "its clock and this server's differ by")
				var e *provider.Error
				require.ErrorAs(t, err, &e)
				assert.InDelta(t, skew.Seconds(), e.Clock.Skew().Seconds(), 1, "it is reported")
				assert.Len(t, sim.Calls(), 1, "the request is not repeated")

				sim.Behave(vendorsim.Conduct{})
				exchange(t, sim, credential, provider.Grant{})
				for _, call := range sim.Calls() {
					form, err := url.ParseQuery(call.Body)
					require.NoError(t, err)
					claims := jwt.MapClaims{}
					_, _, err = jwt.NewParser().ParseUnverified(form.Get("client_assertion"), claims)
					require.NoError(t, err)
					assert.InDelta(t, time.Now().Unix(), claims["iat"], 5)
				}
			})
		})
	}
}

func TestTheAudienceDoesNotDependOnTheTokenURL(t *testing.T) {
	const tokenURL, proxy = "https://kensho.okta.com/oauth2/default/v1/token", "http://127.0.0.1:8080/kensho.okta.com/oauth2/default/v1/token"
	for name, test := range map[string]struct {
		fields   map[string]any
		audience string
	}{
		"directly":            {nil, tokenURL},
		"by a proxy":          {map[string]any{"token_url": proxy}, tokenURL},
		"to an audience":      {map[string]any{"assertion_audience": "https://other.okta.com/token"}, "https://other.okta.com/token"},
		"to one, and a proxy": {map[string]any{"token_url": proxy, "assertion_audience": "https://other.okta.com/token"}, "https://other.okta.com/token"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim := vendorsim.New()
				sim.AddClient("0oaclient", &key().PublicKey, "")
				fields := map[string]any{"client_id": "0oaclient", "private_key": keyPEM()}
				maps.Copy(fields, test.fields)
				_, err := open(t, sim, fields).Exchange(t.Context(), provider.Grant{})
				if test.audience == tokenURL {
					require.NoError(t, err)
				}
				form, err := url.ParseQuery(sim.Calls()[0].Body)
				require.NoError(t, err)
				claims := jwt.MapClaims{}
				_, _, err = jwt.NewParser().ParseUnverified(form.Get("client_assertion"), claims)
				require.NoError(t, err)
				assert.Equal(t, test.audience, claims["aud"])
			})
		})
	}
}
