package broker

import (
	"context"

	"vault-plugin-secrets-tokenbroker/provider"
)

// ask calls the vendor once, and reads the token in its answer. The answer is nil if there is
// none; one without a token, or with a token that holds a secret, comes with the failure. Where
// there is no last token, an earlier one counts if the vendor answers with it again: max_ttl runs
// from its first issue.
func ask(ctx context.Context, c *Credential, s *State, vendor provider.Credential, grant provider.Grant, last, earlier provider.Token) (*provider.Answer, provider.Token, *provider.Error) {
	answer, err := vendor.Exchange(ctx, grant)
	if err != nil {
		return nil, provider.Token{}, asProviderError(err)
	}
	if last.AccessToken == "" && answer.AccessToken == earlier.AccessToken {
		last = earlier
	}
	token, err := answer.Token(c.TTL, last)
	if err != nil {
		return answer, token, asProviderError(err)
	}
	return answer, token, answer.CheckSecrets(c.secrets(s), c.known(s))
}

// fallback is the other way to a token that a credential has, beside a grant; nil if it has
// none.
func fallback(vendor provider.Credential, grant provider.Grant) provider.Credential {
	if other, ok := vendor.(provider.Fallback); ok {
		return other.Fallback(grant)
	}
	return nil
}

// fallsBack is whether a credential goes its other way to a token after a failure. A refusal
// says that the first way has ended. Whatever else has failed may pass by itself, which can
// be waited for once, while there is a valid token. A vendor that asks for fewer requests
// gets no further one.
func fallsBack(failure *provider.Error, isValid bool, failures int) bool {
	switch {
	case failure == nil || failure.Kind == provider.Invalid:
		return false
	case failure.Kind == provider.Rejected:
		return true
	case failure.Throttled():
		return false
	}
	return !isValid || failures > 0
}
