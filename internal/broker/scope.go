package broker

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"vault-plugin-secrets-tokenbroker/provider"
)

// extraScopes returns the granted scopes that were not requested although the credential has them.
// If whole is "", only the vendor knows the scope of the credential, and any scope counts. A scope
// that the credential does not have, such as the profile that some servers always add, does not
// bypass the role. scope and whole are in the form of provider.JoinScope.
func extraScopes(granted []string, scope, whole string) []string {
	asked, had := strings.Fields(scope), strings.Fields(whole)
	var wide []string
	for _, s := range granted {
		if !slices.Contains(asked, s) && (whole == "" || slices.Contains(had, s)) {
			wide = append(wide, s)
		}
	}
	return wide
}

// checkNotWidened returns an error if a token for a narrower scope has more scopes than were
// requested. If the vendor has issued the same token for another scope, the token has that scope as
// well, whatever this answer states. (Guarantee 14.)
func (c *Credential) checkNotWidened(s *State, t provider.Token, scope string) *provider.Error {
	key, whole := c.keyOf(scope), cmp.Or(c.WholeScope, c.Scope)
	if key == "" {
		return nil
	}
	n := provider.ParseNarrowing(key)
	granted := t.Scope
	for other, token := range s.Tokens {
		if other == scope || token.AccessToken != t.AccessToken {
			continue
		}
		of := provider.ParseNarrowing(c.keyOf(other))
		if !reflect.DeepEqual(of.Fields, n.Fields) {
			return newWidenedError("returned a token that it has issued for another audience or other fields as well, so it does not narrow by these; give the role a credential of its own")
		}
		has := token.Scope
		if len(has) == 0 && len(of.Scope) == 0 {
			has = strings.Fields(whole)
		} else if len(has) == 0 {
			has = of.Scope
		}
		if len(has) == 0 {
			return newWidenedError("returned the token of the credential's own scope, which is more than the role may get; give the role a credential of its own")
		}
		granted = append(slices.Clip(granted), has...)
	}
	wide := extraScopes(granted, provider.JoinScope(n.Scope), whole)
	if len(wide) == 0 || len(n.Scope) == 0 {
		return nil
	}
	why := "which the credential has and the role does not; give the role a credential of its own"
	if whole == "" {
		why = "which the role does not have and the credential may have; set the credential's scope to what its roles may get, or give the role a credential of its own"
	}
	slices.Sort(wide)
	shown := provider.Redacted(strings.Join(slices.Compact(wide), " "), append(c.secretsAndTokens(s), t.AccessToken)...)
	return newWidenedError("granted %s as well, %s", shown, why)
}

// aboutFields returns a failure that may concern only the fields of a narrower token. A vendor that rejects the
// subject of an assertion says invalid_grant (RFC 7523 §3.1) or unauthorized_client, as it does for the key. With a
// refresh token, invalid_grant is about that. (Guarantee 15.)
func (c *Credential) aboutFields(failure *provider.Error, scope string) *provider.Error {
	if failure.Kind != provider.Rejected || !failure.AboutGrant() || c.UsesRefreshToken || len(provider.ParseNarrowing(scope).Fields) == 0 {
		return failure
	}
	next := *failure
	next.MayBeScope = true
	return &next
}

// newWidenedError returns the failure of an exchange whose token has more scopes than were
// requested.
func newWidenedError(format string, args ...any) *provider.Error {
	e := provider.Errorf(provider.Rejected, "the vendor "+format, args...)
	e.MayBeScope, e.Widened = true, true
	return e
}

// scopeWarnings returns warnings for missing and additional scopes.
func scopeWarnings(t provider.Token, scope string) []string {
	if scope == ownScope || len(t.Scope) == 0 {
		return nil
	}
	asked := provider.ParseNarrowing(scope).Scope
	if len(asked) == 0 {
		return nil
	}
	missing := func(list, other []string) string {
		return strings.Join(slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(other, s) }), " ")
	}
	var warnings []string
	if lacks := missing(asked, t.Scope); lacks != "" {
		warnings = append(warnings, fmt.Sprintf("the vendor did not grant all of the role's scope: this token lacks %s", lacks))
	}
	if more := missing(t.Scope, asked); more != "" {
		warnings = append(warnings, fmt.Sprintf("the vendor granted scopes that it was not asked for: %s", more))
	}
	return warnings
}
