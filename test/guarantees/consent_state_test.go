package guarantees_test

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// refuse makes storage refuse calls that begin with op and prefix, carried out or not.
func refuse(s *engine.FaultyStorage, op, prefix string, done bool) {
	fault := func(call engine.StorageCall) engine.Fault {
		if call.Op == op && strings.HasPrefix(call.Key, prefix) {
			return engine.Fault{Err: errors.New("the disk is full"), Done: done}
		}
		return engine.Fault{}
	}
	s.OnCall.Store(&fault)
}

// gauge returns a metric of the credential.
func (e *consenting) gauge(metric string) string {
	metrics := e.MetricsText()
	_, after, _ := strings.Cut(metrics, "tokenbroker_"+metric+`{name="`+person+`",vendor="oauth2"} `)
	return strings.Split(after, "\n")[0]
}

// Guarantee 3: the code is spent, so its refresh token must not be lost.
func TestGuarantee3TheResultOfAConsentOutlivesAFailureOfStorage(t *testing.T) {
	for name, test := range map[string]struct {
		done  bool // storage has carried out the write that it refused
		again func(e *consenting, back string)
	}{
		"the page is reloaded": {again: func(e *consenting, back string) {
			status, page := e.open(back)
			require.Equal(e.T, http.StatusOK, status, page)
		}},
		"the sweep tries again": {again: func(e *consenting, _ string) { require.NoError(e.T, e.Tick()) }},
		"the write had succeeded": {done: true, again: func(e *consenting, back string) {
			status, page := e.open(back)
			require.Equal(e.T, http.StatusOK, status, page)
		}},
		"a setting is written meanwhile": {again: func(e *consenting, _ string) {
			e.Write("config/oauth2/"+person, map[string]any{"description": "of Alice"})
			require.NoError(e.T, e.Tick())
			assert.Equal(e.T, "of Alice", e.Read("config/oauth2/" + person).Data["description"])
		}},
		"another consent begins": {again: func(e *consenting, _ string) { e.begin() }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newConsenting(t)
				back := e.Sim.Consent(e.begin(), person)
				faulty := &engine.FaultyStorage{Storage: e.Storage}
				e.Storage = faulty
				refuse(faulty, "put", "config/", test.done)
				status, page := e.open(back)
				require.Equal(t, http.StatusServiceUnavailable, status, page)
				assert.Equal(t, "unsaved", e.consent()["state"])
				told := e.Read("status/" + person).Data
				assert.Contains(t, told["storage_error"], "the disk is full")
				assert.Equal(t, test.done, told["state"] == "ok", told["state"])
				assert.NotEqual(t, "consent_required", told["state"])
				assert.Equal(t, false, told["consent"].(map[string]any)["required"], "nobody has to consent again")
				for range 2 {
					assert.Equal(t, "1.0", e.gauge("unsaved"))
					assert.Equal(t, "0.0", e.gauge("consent_required"))
					e.Request(logical.ReadOperation, "token/"+person, nil) // loads the credential
				}
				faulty.OnCall.Store(nil)
				test.again(e, back)
				e.Creds(person)
				assert.Equal(t, map[string]any{"email": person, "sub": "sub-of-" + person}, e.consent()["claims"])
				assert.Equal(t, "0.0", e.gauge("unsaved"))
			})
		})
	}
}

// A crash after any write of a consent leaves either a credential that works and says who has consented, or one
// that says that the consent has failed.
func TestGuarantee10ACrashAfterAnyWriteOfAConsentLeavesNoFalseState(t *testing.T) {
	for writes := range 6 {
		synctest.Test(t, func(t *testing.T) {
			e := newConsenting(t)
			back := e.Sim.Consent(e.begin(), person)
			faulty := &engine.FaultyStorage{Storage: e.Storage}
			e.Storage = faulty
			faulty.FailWritesAfter(writes)
			e.open(back)
			e.Storage = faulty.Storage
			e.Restart()
			consent := e.consent()
			_, status, _ := e.Request(logical.ReadOperation, "creds/"+person, nil)
			if status == http.StatusOK {
				assert.Equal(t, "connected", consent["state"])
				assert.Equal(t, person, consent["claims"].(map[string]any)["email"])
				return
			}
			assert.Contains(t, []any{"pending", "failed"}, consent["state"], "%d writes", writes)
			assert.NotContains(t, consent, "claims")
			status, page := e.open(e.Sim.Consent(e.begin(), person))
			assert.Equal(t, http.StatusOK, status, page)
		})
	}
}

func TestAReturnToABusyEngineCanBeRepeated(t *testing.T) {
	for name, refused := range map[string]struct {
		op, prefix string
		isLoaded   bool // the credential and its state are in memory
	}{
		"the state is not read": {"list", "state/", false}, "the credential is not read": {"get", "config/", false},
		"the credential is not read again": {"get", "config/", true}, "the attempt is not written": {"put", "consent/", true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newConsenting(t)
				back := e.Sim.Consent(e.begin(), person)
				faulty := &engine.FaultyStorage{Storage: e.Storage}
				e.Storage = faulty
				e.Refused("token/" + person)
				if !refused.isLoaded {
					e.Restart()
				}
				refuse(faulty, refused.op, refused.prefix, false)
				status, page := e.open(back)
				require.Equal(t, http.StatusServiceUnavailable, status, page)
				faulty.OnCall.Store(nil)
				status, page = e.open(back)
				assert.Equal(t, http.StatusOK, status, page)
			})
		})
	}
}

// A credential that nobody has consented to will have a refresh token, which the vendor may revoke together with
// an access token.
func TestACredentialOfAConsentHasNoDedicatedRole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newConsenting(t)
		_, status, message := e.Request(logical.UpdateOperation, "roles/mine", map[string]any{"config": person, "dedicated": true, "max_leases": 3})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, message, "refresh token")
	})
}

func TestGuarantee6AnIDTokenThatEchoesASecretShowsNone(t *testing.T) {
	for name, claims := range map[string]map[string]any{
		"as the issuer": {"iss": engine.ClientSecret}, "as the audience": {"aud": engine.ClientSecret},
		"as the address": {"email": engine.ClientSecret}, "in another claim": {"sub": "x" + engine.ClientSecret + "y"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newConsenting(t)
				e.Sim.Behave(vendorsim.Conduct{OAuth: vendorsim.OAuthConduct{IDToken: claims}})
				_, page := e.open(e.Sim.Consent(e.begin(), person))
				assert.NotContains(t, page, engine.ClientSecret)
				e.consent() // the engine's own check searches all that has left it
			})
		})
	}
}

// Who has consented is said of the refresh token in use, and of no other.
func TestWhoHasConsentedIsSaidOfTheRefreshTokenInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newConsenting(t)
		connect := func() {
			status, page := e.open(e.Sim.Consent(e.begin(), person))
			require.Equal(t, http.StatusOK, status, page)
		}
		connect()
		e.begin()
		time.Sleep(11 * time.Minute)
		assert.Equal(t, "expired", e.consent()["state"])
		assert.Equal(t, person, e.consent()["claims"].(map[string]any)["email"], "the credential still works with this consent")
		connect()
		_, status, message := e.Request(logical.UpdateOperation, "config/oauth2/"+person, map[string]any{"refresh_token": ""})
		require.Equal(t, http.StatusOK, status, message)
		assert.Equal(t, map[string]any{"state": "required"}, e.consent())
		connect()
		e.Sim.AddOAuthRefreshToken(e.client, engine.RefreshToken, "openid", "read")
		e.Write("config/oauth2/"+person, map[string]any{"refresh_token": engine.RefreshToken})
		_, status, _ = e.Request(logical.ReadOperation, "authorize/"+person, nil)
		assert.Equal(t, http.StatusNotFound, status, "the operator's own refresh token is not of a consent")
		assert.NotContains(t, e.Dump()["config/oauth2/"+person], "sub-of-", "the claims of somebody else are not kept")
	})
}

// Nothing can be exchanged, so nothing has failed.
func TestGuarantee16ACredentialThatNobodyHasConsentedToIsNotExchanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newConsenting(t)
		for range 3 {
			_, message := e.Refused("token/" + person)
			assert.Contains(t, message, "no person has consented yet; begin with a write to authorize/"+person)
			e.Pass(20 * time.Minute)
		}
		metrics := e.MetricsText()
		assert.Contains(t, metrics, `tokenbroker_exchanges_total{result="rejected",vendor="oauth2"} 0.0`)
		assert.Contains(t, metrics, `tokenbroker_credential_rejected{name="`+person+`",vendor="oauth2"} 0.0`)
		assert.Equal(t, "consent_required", e.Read("status/" + person).Data["state"])
	})
}

func TestTheEnginesParametersOfTheAuthorizationURLWin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newConsenting(t)
		e.Write("config/oauth2/"+person, map[string]any{
			"authorization_url": vendorsim.OAuthAuthorizationURL + "?code_challenge=abc&code_challenge_method=plain&state=fixed&redirect_uri=https://evil.example&response_type=token&nonce=x",
			"client_secret":     engine.ClientSecret,
		})
		status, page := e.open(e.Sim.Consent(e.begin(), person)) // the vendor checks each parameter
		assert.Equal(t, http.StatusOK, status, page)
	})
}

// RFC 9207 §2.4: a response without iss is valid only if the metadata does not say that there is one.
func TestAReturnWithoutAnIssuerIsValidIfTheMetadataPromisesNone(t *testing.T) {
	for name, test := range map[string]struct {
		scope    string // with openid, the keys are read as well
		promised any
		status   int
	}{
		"promised": {"read", true, 502}, "not promised": {"openid,read", nil, 200}, "false": {"read", false, 200}, "a text": {"openid,read", "true", 200},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newConsenting(t)
				e.Write("config/oauth2/"+person, map[string]any{"scope": test.scope})
				e.Sim.Behave(vendorsim.Conduct{Fault: vendorsim.Always(e.Sim.Amend(func(answer map[string]any) {
					if answer["token_endpoint"] != nil {
						answer["authorization_response_iss_parameter_supported"] = test.promised
					}
				}))})
				resp, status, message := e.Request(logical.UpdateOperation, "authorize/"+person, nil)
				require.Equal(t, http.StatusOK, status, message)
				back, err := url.Parse(e.Sim.Consent(resp.Data["authorization_url"].(string), person))
				require.NoError(t, err)
				query := back.Query()
				query.Del("iss")
				back.RawQuery = query.Encode()
				status, page := e.open(back.String())
				assert.Equal(t, test.status, status, page)
			})
		})
	}
}

// A person must act, so the operator learns of it once, and early enough.
func TestARequiredConsentIsReported(t *testing.T) {
	events := func(e *consenting) (kinds []string) {
		for _, sent := range e.Events() {
			if sent.Kind == "tokenbroker/consent-required" {
				kinds = append(kinds, sent.Metadata["path"].(string))
			}
		}
		return kinds
	}
	required := func(e *consenting) string {
		require.NoError(e.T, e.Tick())
		return e.gauge("consent_required")
	}
	synctest.Test(t, func(t *testing.T) {
		e := newConsenting(t)
		assert.Equal(t, "1.0", required(e), "nobody has consented")
		assert.Equal(t, map[string]any{"required": true}, e.Read("status/" + person).Data["consent"])
		status, page := e.open(e.Sim.Consent(e.begin(), person))
		require.Equal(t, http.StatusOK, status, page)
		assert.Equal(t, "0.0", required(e))
		consent := e.Read("status/" + person).Data["consent"].(map[string]any)
		assert.Equal(t, false, consent["required"])
		assert.Equal(t, map[string]any{"email": person, "sub": "sub-of-" + person}, consent["claims"])
		assert.Empty(t, events(e))

		e.Creds(person)
		e.Sim.Withdraw(person)
		e.Pass(50 * time.Minute)
		assert.Equal(t, "1.0", required(e))
		assert.Equal(t, []string{"authorize/" + person}, events(e))
		e.Pass(20 * time.Minute)
		assert.Empty(t, events(e), "once")
		status, page = e.open(e.Sim.Consent(e.begin(), person))
		require.Equal(t, http.StatusOK, status, page)
		assert.Equal(t, "0.0", required(e))
		e.Creds(person)
	})
	t.Run("by the calendar", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			e := newConsenting(t)
			status, page := e.open(e.Sim.Consent(e.begin(), person))
			require.Equal(t, http.StatusOK, status, page)
			e.Write("config/oauth2/"+person, map[string]any{"expires": "2000-01-31"})
			assert.Equal(t, "0.0", required(e))
			time.Sleep(17 * 24 * time.Hour)
			assert.Equal(t, "1.0", required(e))
			assert.Equal(t, "ok", e.Read("status/" + person).Data["state"], "the refresh token still works")
			e.Creds(person)
			assert.Equal(t, []string{"authorize/" + person}, events(e))
		})
	})
}
