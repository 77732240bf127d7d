package guarantees_test

import (
	"net/http"
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

// metadataHang makes the vendor accept requests for its metadata and never answer.
func metadataHang() vendorsim.Conduct {
	return vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
		if strings.Contains(r.URL.Path, "/.well-known/") {
			return func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
		}
		return nil
	}}
}

func TestGuarantee4StaleMetadataAreUsedWhileTheIssuerHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewOAuth(t)
		e.Write("config/oauth2/found", engine.IssuerClient())
		e.Write("roles/own", map[string]any{"config": "found", "dedicated": true, "max_exchanges": 1000})
		e.Creds("own")
		time.Sleep(25 * time.Hour)
		e.Sim.Behave(metadataHang())
		started := time.Now()
		for range 5 {
			e.Creds("own")
		}
		assert.LessOrEqual(t, time.Since(started), 3*time.Second, "one short attempt for all reads")
		e.Sim.Behave(vendorsim.Conduct{})
		time.Sleep(2 * time.Minute)
		e.Creds("own")
		require.Equal(t, "ok", e.Read("status/found").Data["state"])
	})
}

func TestMetadataThatCannotBeFetchedAreAnOutage(t *testing.T) {
	for name, conduct := range map[string]vendorsim.Conduct{
		"an issuer that hangs": metadataHang(),
		"a 503":                engine.MetadataDown(),
		"a 401":                metadataRefused(http.StatusUnauthorized, `{"error":"invalid_client"}`),
		"a 403 of a proxy":     metadataRefused(http.StatusForbidden, "<html>"),
		"a 400":                metadataRefused(http.StatusBadRequest, ""),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine.NewOAuth(t)
				e.Write("config/oauth2/found", engine.IssuerClient())
				e.Write("roles/own", map[string]any{"config": "found", "dedicated": true})
				e.Sim.Behave(conduct)
				e.Write("config/oauth2/found", engine.With(engine.IssuerClient(), "verify", false))
				for _, path := range []string{"creds/own", "creds/found", "token/found"} {
					status, message := e.Refused(path)
					assert.Equal(t, http.StatusServiceUnavailable, status, "%s: %s", path, message)
				}
				_, status, message := e.Request(logical.UpdateOperation, "config/oauth2/found", engine.IssuerClient())
				assert.Equal(t, http.StatusServiceUnavailable, status, message)
				e.Sim.Behave(vendorsim.Conduct{})
				time.Sleep(2 * time.Minute)
				e.Creds("own")
				e.Creds("found")
			})
		})
	}
}

// metadataRefused makes the vendor answer requests for its metadata with a status and body.
func metadataRefused(status int, body string) vendorsim.Conduct {
	return vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
		if strings.Contains(r.URL.Path, "/.well-known/") {
			return vendorsim.Answer(status, body)
		}
		return nil
	}}
}
