package guarantees_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// fail makes requests with a method fail.
func (e *consenting) fail(method string, fault http.HandlerFunc) {
	e.Sim.Behave(vendorsim.Conduct{Fault: func(r *http.Request) http.HandlerFunc {
		if r.Method == method {
			return fault
		}
		return nil
	}})
}

// A code that the vendor has certainly not considered is sent again when the browser returns again, but not
// before the time that the vendor asks for.
func TestGuarantee16ACodeIsSentAgainOnlyIfTheVendorHasNotConsideredIt(t *testing.T) {
	for name, test := range map[string]struct {
		method   string
		fault    http.HandlerFunc
		mayRetry bool
		pause    time.Duration
	}{
		"throttled":              {http.MethodPost, vendorsim.Throttle("30"), true, 30 * time.Second},
		"down":                   {http.MethodPost, vendorsim.Answer(503, ""), true, 5 * time.Second},
		"down, with a date":      {http.MethodPost, vendorsim.LaterDate(503, 2*time.Minute), true, 119 * time.Second},
		"metadata are missing":   {http.MethodGet, vendorsim.Answer(500, ""), true, 5 * time.Second},
		"throttled for an hour":  {http.MethodPost, vendorsim.Throttle("3600"), false, 0},
		"a broken answer":        {http.MethodPost, vendorsim.Break("{"), false, 0},
		"no answer":              {http.MethodPost, vendorsim.Reset, false, 0},
		"an error of the vendor": {http.MethodPost, vendorsim.Answer(500, ""), false, 0},
		"rejected":               {http.MethodPost, vendorsim.Answer(400, `{"error":"invalid_grant"}`), false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			withDevices(t, func(t *testing.T, e *consenting) {
				back := e.Sim.Consent(e.begin(), person)
				e.fail(test.method, test.fault)
				status, page := e.open(back)
				if !test.mayRetry {
					assert.Equal(t, http.StatusBadGateway, status, page)
					assert.Equal(t, "failed", e.consent()["state"])
					e.Sim.Behave(vendorsim.Conduct{})
					time.Sleep(40 * time.Second)
					status, page = e.open(back)
					assert.Equal(t, http.StatusConflict, status, page)
					return
				}
				assert.Equal(t, http.StatusServiceUnavailable, status, page)
				assert.Contains(t, page, "next attempt at")
				assert.Equal(t, "pending", e.consent()["state"])
				e.Sim.Behave(vendorsim.Conduct{})
				before := e.Exchanges()
				time.Sleep(test.pause - time.Second)
				status, page = e.open(back)
				assert.Equal(t, http.StatusServiceUnavailable, status, page)
				assert.Equal(t, before, e.Exchanges(), "the vendor is not called")
				_, status, _ = e.Request(logical.UpdateOperation, "authorize/"+person, map[string]any{"flow": "device"})
				assert.Equal(t, http.StatusTooManyRequests, status)
				time.Sleep(2 * time.Second)
				if test.pause > time.Minute { // the code has expired at the vendor
					return
				}
				status, page = e.open(back)
				assert.Equal(t, http.StatusOK, status, page)
				e.Creds(person)
			})
		})
	}
}

func TestGuarantee16DeviceCodesAreRequestedAtAnInterval(t *testing.T) {
	write := func(e *consenting) (status int, message string) {
		_, status, message = e.Request(logical.UpdateOperation, "authorize/"+person, map[string]any{"flow": "device"})
		return status, message
	}
	for name, test := range map[string]struct {
		fault  http.HandlerFunc
		status int
		pause  time.Duration
	}{
		"a code":                  {nil, http.StatusOK, 5 * time.Second},
		"throttled":               {vendorsim.Throttle("120"), http.StatusServiceUnavailable, 2 * time.Minute},
		"throttled for long":      {vendorsim.Throttle("86400"), http.StatusServiceUnavailable, time.Hour},
		"an answer without codes": {vendorsim.Answer(200, "{}"), http.StatusBadGateway, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			withDevices(t, func(t *testing.T, e *consenting) {
				if test.fault != nil {
					e.fail(http.MethodPost, test.fault)
				}
				status, message := write(e)
				require.Equal(t, test.status, status, message)
				e.Sim.Behave(vendorsim.Conduct{})
				before := e.Exchanges()
				time.Sleep(test.pause - time.Second)
				status, message = write(e)
				assert.Equal(t, http.StatusTooManyRequests, status)
				assert.Contains(t, message, "does not call the vendor")
				assert.Equal(t, before, e.Exchanges())
				time.Sleep(time.Second)
				status, message = write(e)
				assert.Equal(t, http.StatusOK, status, message)
			})
		})
	}
}

// However often a consent is begun, there is one entry for the credential.
func TestGuarantee15ConsentsThatAreBegunDoNotFillStorage(t *testing.T) {
	withDevices(t, func(t *testing.T, e *consenting) {
		for range 100 {
			e.begin()
			time.Sleep(5 * time.Second)
			e.device()
		}
		entries := 0
		for key := range e.Dump() {
			if strings.HasPrefix(key, "consent/") {
				entries++
			}
		}
		assert.Equal(t, 1, entries)
	})
}

func TestGuarantee16AVendorThatAsksForTimeIsNotPolled(t *testing.T) {
	withDevices(t, func(t *testing.T, e *consenting) {
		code := e.device()
		e.fail(http.MethodPost, vendorsim.Throttle("120"))
		time.Sleep(6 * time.Second)
		before := e.Exchanges()
		time.Sleep(110 * time.Second)
		assert.Equal(t, before, e.Exchanges())
		e.Sim.Behave(vendorsim.Conduct{})
		e.Sim.Approve(code, person)
		time.Sleep(20 * time.Second)
		assert.Equal(t, "connected", e.consent()["state"])
		e.Creds(person)
	})
}
