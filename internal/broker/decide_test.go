package broker

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-tokenbroker/provider"
)

// TestDecide has a row for each input of a decision. Unless a row says otherwise, its token has a
// lifetime of an hour, and its renewal is due at minute 45.
func TestDecide(t *testing.T) {
	issued := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	at := func(minutes float64) time.Time { return issued.Add(time.Duration(minutes * float64(time.Minute))) }
	token := provider.Token{AccessToken: "a", IssueTime: issued, ExpireTime: at(60)}
	onTheHour, fixed := token, token
	onTheHour.RenewableFrom = at(60)
	fixed.NotRenewable = true
	failedUntil := func(minutes float64) func(*snapshot) {
		return func(snap *snapshot) {
			snap.state.Failure = Failure{Count: 1, Kind: provider.Unavailable, Time: at(minutes - 1), NextAttempt: at(minutes)}
		}
	}
	unsavedUntil := func(minutes float64) func(*snapshot) {
		return func(snap *snapshot) {
			snap.unsaved = &unsavedState{state: snap.state, grantWrite: &unsavedWrite{err: errors.New("full"), retryTime: at(minutes)}}
		}
	}
	allEarlyUsed := func(snap *snapshot) { snap.early = map[string]time.Time{ownScope: at(60)} }
	// The last exchange was at minute 0, so a keepalive of 30 minutes is due by minute 30.
	keepaliveEvery := func(interval time.Duration) func(*snapshot) {
		return func(snap *snapshot) {
			snap.credential.Keepalive = interval
			snap.state.ExchangeTime, snap.state.Exchanges = issued, 2
		}
	}
	keepalive := keepaliveEvery(30 * time.Minute)
	reader := demand{}
	requiring := func(minTTL time.Duration) demand { return demand{minTTL: minTTL, shortIssueTime: issued} }
	background, inUse := demand{isBackground: true}, demand{isBackground: true, inUse: true}

	for name, row := range map[string]struct {
		token  provider.Token
		given  func(*snapshot)
		demand demand
		at     float64 // minutes
		want   action
		when   float64 // minutes; -1 for never
	}{
		"a valid token":                                  {token, nil, reader, 10, serve, 45},
		"a token whose renewal is due":                   {token, nil, reader, 45, renewAhead, 45},
		"an expired token":                               {token, nil, reader, 60, renewNow, 45},
		"a token within the margin":                      {token, nil, reader, 59.99, renewNow, 45},
		"an answer without a token":                      {provider.Token{}, nil, reader, 10, renewNow, -1},
		"a valid token, backing off":                     {token, failedUntil(51), reader, 50, serve, 51},
		"an expired token, backing off":                  {token, failedUntil(71), reader, 70, fail, 71},
		"an expired token, after the back-off":           {token, failedUntil(71), reader, 71, renewNow, 45},
		"a valid token, an unsaved write":                {token, unsavedUntil(11), reader, 10, serve, 11},
		"a valid token, an unsaved write to retry":       {token, unsavedUntil(11), reader, 11, renewAhead, 45},
		"an expired token, an unsaved write":             {token, unsavedUntil(71), reader, 70, fail, 71},
		"expires at the hour":                            {onTheHour, nil, reader, 55, serve, 60},
		"expires at the hour, seconds away":              {onTheHour, nil, reader, 59.9, renewNow, 60},
		"expires at the hour, seconds away, backing off": {onTheHour, failedUntil(60.5), reader, 59.9, serve, 60.5},
		"not renewable":                                  {fixed, nil, reader, 55, serve, 60},
		"long enough for min_ttl":                        {token, nil, requiring(40 * time.Minute), 10, serve, 45},
		"too short for min_ttl":                          {token, nil, requiring(55 * time.Minute), 10, renewEarly, 10},
		"too short for min_ttl, and due":                 {token, nil, requiring(40 * time.Minute), 50, renewNow, 45},
		"too short, but another token is cached by now":  {token, nil, demand{minTTL: 55 * time.Minute, shortIssueTime: at(-5)}, 10, serve, 45},
		"too short, just issued":                         {token, nil, requiring(59*time.Minute + 30*time.Second), 0.1, serve, 45},
		"too short, like any token":                      {token, nil, requiring(2 * time.Hour), 10, serve, 45},
		"too short, and all such exchanges are used":     {token, allEarlyUsed, requiring(55 * time.Minute), 10, serve, 45},
		"too short, expires at the hour":                 {onTheHour, nil, requiring(55 * time.Minute), 10, serve, 60},
		"too short, not renewable":                       {fixed, nil, requiring(55 * time.Minute), 10, serve, 60},
		"too short, backing off":                         {token, failedUntil(11), requiring(55 * time.Minute), 10, serve, 11},
		"background: not in use":                         {token, nil, background, 50, serve, -1},
		"background: in use":                             {token, nil, inUse, 44, serve, 45},
		"background: in use, due":                        {token, nil, inUse, 46, renewNow, 45},
		"background: in use, expired":                    {token, nil, inUse, 61, renewNow, 45},
		"background: in use, backing off":                {token, failedUntil(51), inUse, 50, serve, 51},
		"background: expired, backing off":               {token, failedUntil(71), inUse, 70, serve, 71},
		"background: in use, not renewable":              {fixed, nil, inUse, 61, serve, -1},
		"background: requested without success":          {provider.Token{}, failedUntil(5), inUse, 10, renewNow, 4},
		"background: an unsaved write":                   {token, unsavedUntil(11), background, 10, serve, 11},
		"background: an unsaved write to retry":          {token, unsavedUntil(11), background, 12, renewNow, 11},
		"background: no keepalive yet":                   {token, keepalive, background, 28, serve, 29},
		"background: keepalive due":                      {token, keepalive, background, 30, renewNow, 29},
		"background: keepalive before renewal":           {token, keepalive, inUse, 31, renewNow, 29},
		"background: renewal before keepalive":           {token, keepaliveEvery(2 * time.Hour), inUse, 46, renewNow, 45},
	} {
		snap := snapshot{
			presence: loaded, credential: &Credential{Vendor: disuseVendor{}},
			state: &State{Tokens: map[string]provider.Token{ownScope: row.token}},
		}
		if row.given != nil {
			row.given(&snap)
		}
		got, when := snap.of(ownScope).decide(row.demand, at(row.at))
		assert.Equal(t, row.want, got, name)
		switch {
		case row.when < 0:
			assert.True(t, when.IsZero(), "%s: %s", name, when)
		case row.when == 29: // the time of a keepalive varies within the last part of its interval
			assert.WithinRange(t, when, at(28.5), at(30), name)
		default:
			assert.Equal(t, at(row.when), when, name)
		}
	}
}
