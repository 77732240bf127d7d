package broker

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/provider"
)

func TestACredentialUsesItsFallback(t *testing.T) {
	down := &provider.Error{Kind: provider.Unavailable, Status: 500}
	for name, test := range map[string]struct {
		failure  *provider.Error
		isValid  bool
		failures int
		want     bool
	}{
		"not after a success":                         {nil, false, 5, false},
		"not for bad input":                           {&provider.Error{Kind: provider.Invalid}, false, 5, false},
		"at once after a rejection":                   {&provider.Error{Kind: provider.Rejected, Status: 401}, true, 0, true},
		"not while a valid token can wait":            {down, true, 0, false},
		"at the second failure":                       {down, true, 1, true},
		"without a valid token":                       {down, false, 0, true},
		"for want of an answer":                       {&provider.Error{Kind: provider.Unavailable, Timeout: true}, false, 0, true},
		"for want of a token in the answer":           {&provider.Error{Kind: provider.InvalidResponse}, false, 0, true},
		"for want of a token, twice":                  {&provider.Error{Kind: provider.InvalidResponse}, true, 1, true},
		"not at a vendor that throttles":              {&provider.Error{Kind: provider.Unavailable, Status: http.StatusTooManyRequests}, false, 5, false},
		"not at a vendor that says when to come back": {&provider.Error{Kind: provider.Unavailable, Status: 503, RetryAfter: time.Second}, false, 5, false},
	} {
		assert.Equal(t, test.want, usesFallback(test.failure, test.isValid, test.failures), name)
	}
}
