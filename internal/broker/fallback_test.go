package broker

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/provider"
)

func TestUsesFallback(t *testing.T) {
	down := &provider.Error{Kind: provider.Unavailable, Status: 500}
	for name, test := range map[string]struct {
		failure  *provider.Error
		isValid  bool
		failures int
		want     bool
	}{
		"not after a success":                                {nil, false, 5, false},
		"not after invalid input":                            {&provider.Error{Kind: provider.Invalid}, false, 5, false},
		"after the first rejection":                          {&provider.Error{Kind: provider.Rejected, Status: 401}, true, 0, true},
		"not after the first failure while a token is valid": {down, true, 0, false},
		"after the second failure":                           {down, true, 1, true},
		"without a valid token":                              {down, false, 0, true},
		"after a timeout":                                    {&provider.Error{Kind: provider.Unavailable, Timeout: true}, false, 0, true},
		"after an invalid response":                          {&provider.Error{Kind: provider.InvalidResponse}, false, 0, true},
		"after two invalid responses":                        {&provider.Error{Kind: provider.InvalidResponse}, true, 1, true},
		"not if the vendor throttles":                        {&provider.Error{Kind: provider.Unavailable, Status: http.StatusTooManyRequests}, false, 5, false},
		"not after a Retry-After":                            {&provider.Error{Kind: provider.Unavailable, Status: 503, RetryAfter: time.Second}, false, 5, false},
	} {
		assert.Equal(t, test.want, usesFallback(test.failure, test.isValid, test.failures), name)
	}
}
