package exchange

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider"
)

func TestStaleMetadataIsReadAgainInRealTime(t *testing.T) {
	var calls atomic.Int32
	srv := httptest.NewServer(nil)
	defer srv.Close()
	srv.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"issuer":"` + srv.URL + `","token_endpoint":"` + srv.URL + `/token"}`))
	})
	client, err := provider.NewClient(provider.ClientOptions{Timeout: 10 * time.Second})
	require.NoError(t, err)
	s := &Server{Issuer: srv.URL}
	_, err = s.resolveEndpoints(t.Context(), client)
	require.NoError(t, err)
	before := calls.Load()
	s.found.Store(&metadata{s.found.Load().Endpoints, time.Now().Add(-25 * time.Hour)})
	_, err = s.resolveEndpoints(t.Context(), client)
	require.NoError(t, err)
	assert.Greater(t, calls.Load(), before, "stale metadata is never read again")
}
