package credential

import (
	"cmp"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/schedule"
	"vault-plugin-secrets-tokenbroker/provider"
)

// A Publication is how a key pair is published at jwks/<name> and rotated by a schedule.
type Publication struct {
	Publish bool   `json:"publish,omitempty"`
	Issuer  string `json:"issuer,omitempty"`

	Schedule schedule.Schedule `json:"schedule,omitzero"`

	// Since is when the schedule begins to count: the last rotation, or when it was set.
	Since time.Time `json:"since,omitzero"`

	// PublishAhead is how long the next key is published before it signs; zero for the default.
	PublishAhead time.Duration `json:"publish_ahead,omitempty"`

	// CachedUntil is until when a consumer may have the keys from before publish_ahead was made shorter.
	CachedUntil time.Time `json:"cached_until,omitzero"`

	LastRotation time.Time    `json:"last_rotation,omitzero"`
	Retired      []RetiredKey `json:"retired,omitempty"` // the oldest first

	// Failures counts the attempts by the schedule that failed in a row, and LastError is why the last
	// one did.
	Failures    int       `json:"failures,omitempty"`
	LastError   string    `json:"last_error,omitempty"`
	NextAttempt time.Time `json:"next_attempt,omitzero"`
}

// A RetiredKey is the public key of a pair that was active. It is published until what it has signed has
// expired.
type RetiredKey struct {
	KeyID       string          `json:"key_id"`
	JWK         json.RawMessage `json:"jwk"`
	RetiredTime time.Time       `json:"retired_time"`
	Keep        time.Duration   `json:"keep"`
}

// Until returns when the key is no longer published.
func (r RetiredKey) Until() time.Time { return r.RetiredTime.Add(r.Keep) }

const (
	defaultPublishAhead = 24 * time.Hour
	minPublishAhead     = 10 * time.Second

	// longestMaxAge bounds how long consumers may cache the keys.
	longestMaxAge = time.Hour

	// maxRetired bounds the size of a key pair's entry. No pair is activated while it has that many retired keys.
	maxRetired = 16
)

// Ahead returns how long the next key is published before it signs.
func (p *Publication) Ahead() time.Duration { return cmp.Or(p.PublishAhead, defaultPublishAhead) }

// MaxAge returns how long consumers may cache the keys: a quarter of Ahead, so that a consumer has three
// more attempts to fetch the next key before it signs.
func (p *Publication) MaxAge() time.Duration {
	return min(longestMaxAge, p.Ahead()/4).Truncate(time.Second)
}

// Rotates reports whether a schedule rotates the key pair.
func (p *Publication) Rotates() bool { return !p.Schedule.IsZero() }

// NextRotation returns when the next rotation is due; the zero time if there is no schedule.
func (p *Publication) NextRotation(now time.Time) time.Time {
	if !p.Rotates() {
		return time.Time{}
	}
	return p.Schedule.Next(p.Since, now).UTC()
}

// A PublicationRequest holds the fields of Publication that an operator sends. A nil field stays unchanged.
type PublicationRequest struct {
	Publish                        *bool
	Issuer, RotationSchedule       *string
	RotationPeriod, RotationWindow *time.Duration
	PublishAhead                   *time.Duration
}

func (w PublicationRequest) isEmpty() bool { return w == PublicationRequest{} }

// apply returns p with the write's fields, for the key pair with a name.
func (w PublicationRequest) apply(p Publication, name string, now time.Time) (Publication, error) {
	if w.isEmpty() {
		return p, nil
	}
	old := p
	set(&p.Publish, w.Publish)
	set(&p.Issuer, w.Issuer)
	set(&p.Schedule.Period, w.RotationPeriod)
	set(&p.Schedule.Cron, w.RotationSchedule)
	set(&p.Schedule.Window, w.RotationWindow)
	set(&p.PublishAhead, w.PublishAhead)
	p.Issuer, p.Schedule.Cron = strings.TrimSpace(p.Issuer), strings.TrimSpace(p.Schedule.Cron)
	if err := p.check(name); err != nil {
		return p, err
	}
	switch {
	case !p.Publish:
		return Publication{PublishAhead: p.PublishAhead, LastRotation: p.LastRotation}, nil
	case !p.Rotates():
		p.Since = time.Time{}
	case p.Schedule != old.Schedule && (!old.Rotates() || p.Schedule.Cron != ""):
		p.Since = now // otherwise a time of the new schedule that has passed would be due
	}
	if old.Publish && p.MaxAge() < old.MaxAge() {
		p.CachedUntil = now.Add(old.MaxAge())
	}
	p.Failures, p.LastError, p.NextAttempt = 0, "", time.Time{}
	return p, nil
}

// set sets a value that is given.
func set[T any](value, given *T) {
	if given != nil {
		*value = *given
	}
}

// check returns an error of kind Invalid that names the field at fault.
func (p *Publication) check(name string) error {
	if err := p.Schedule.Check(); err != nil {
		return err
	}
	field := schedule.PeriodField
	if p.Schedule.Cron != "" {
		field = schedule.ScheduleField
	}
	switch {
	case p.Rotates() && !p.Publish:
		return provider.Errorf(provider.Invalid, "%s: requires publish=true, as the vendor must learn of each new key by itself; set that, or clear this", field)
	case p.Issuer != "" && !p.Publish:
		return provider.Errorf(provider.Invalid, `issuer: requires publish=true; set that, or clear this with issuer=""`)
	case p.PublishAhead != 0 && p.PublishAhead < minPublishAhead:
		return provider.Errorf(provider.Invalid, "publish_ahead: must be at least %s; 0 for the default, %s", minPublishAhead, inUnits(defaultPublishAhead))
	case p.Schedule.Period != 0 && p.Ahead() >= p.Schedule.Period:
		return provider.Errorf(provider.Invalid, "publish_ahead: must be shorter than rotation_period (%s), as each key is published that long before it signs; it is %s", inUnits(p.Schedule.Period), inUnits(p.Ahead()))
	case p.Issuer == "":
		return nil
	}
	if err := provider.CheckURL("issuer", p.Issuer); err != nil {
		return err
	}
	u, err := url.Parse(p.Issuer)
	if err != nil || strings.ContainsAny(p.Issuer, "?#") || !strings.HasSuffix(u.Path, "/"+apipath.JWKS(name)) || u.RawPath != "" {
		return provider.Errorf(provider.Invalid, "issuer: must be the URL at which this server has %[1]s: https://vault.example.com/v1/<namespace and mount>/%[1]s", apipath.JWKS(name))
	}
	return nil
}

// published returns the pair with the time from which on it is published.
func (p *Pair) published(since time.Time) *Pair {
	if p == nil {
		return nil
	}
	next := *p
	next.PublishedTime = since
	return &next
}

// rotated returns the key pair with its pending pair as the active one. The former one stays published for
// a while, as what it has signed may be on its way to the vendor. lifetime is the longest of what the credentials that
// use the key pair sign.
func (k *Keypair) rotated(now time.Time, lifetime time.Duration) (*Keypair, error) {
	active := *k.Pending
	next := &Keypair{Active: &active, Allowed: k.Allowed, Identity: k.Identity, Publication: k.Publication, Activated: map[string]unsettledEntry{}}
	p := &next.Publication
	p.Since, p.LastRotation = now, now
	p.Failures, p.LastError, p.NextAttempt = 0, "", time.Time{}
	if !p.Publish {
		return next, nil
	}
	_, jwk, err := k.Active.public()
	if err != nil {
		return nil, err
	}
	active.SignedFor = lifetime
	keep := max(k.Active.SignedFor, lifetime) + clockTolerance
	p.Retired = append(p.unexpired(now), RetiredKey{KeyID: k.Active.KeyID, JWK: jwk, RetiredTime: now, Keep: keep})
	return next, nil
}

// roomFrom returns from when on another key can be retired; the zero time for now. A retired key is never dropped before
// its time. (Guarantee 17.)
func (p *Publication) roomFrom(now time.Time) time.Time {
	left := p.unexpired(now)
	if len(left) < maxRetired {
		return time.Time{}
	}
	slices.SortFunc(left, func(a, b RetiredKey) int { return a.Until().Compare(b.Until()) })
	return left[len(left)-maxRetired].Until()
}

// unexpired returns the retired keys that stay published.
func (p *Publication) unexpired(now time.Time) []RetiredKey {
	var left []RetiredKey
	for _, r := range p.Retired {
		if now.Before(r.Until()) {
			left = append(left, r)
		}
	}
	return left
}
