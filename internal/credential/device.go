package credential

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/pacing"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// A DeviceCode is what a consent on another device needs (RFC 8628).
type DeviceCode struct {
	DeviceCode              string        `json:"device_code,omitempty"` // until the person has decided
	UserCode                string        `json:"user_code"`
	VerificationURI         string        `json:"verification_uri"`
	VerificationURIComplete string        `json:"verification_uri_complete,omitempty"`
	Interval                time.Duration `json:"interval"`
}

// slowDown is by how much slow_down makes the interval longer (RFC 8628 §3.5).
const slowDown = 5 * time.Second

// polls are the consents on other devices that this process polls. It is safe for concurrent use.
type polls struct {
	mu      sync.Mutex
	running map[string]bool // by the names of the credentials
	ctx     context.Context //nolint:containedctx // it ends with the store
	cancel  context.CancelFunc

	// resumed is whether those that another process began are polled.
	resumed bool
}

func newPolls() *polls {
	ctx, cancel := context.WithCancel(context.Background())
	return &polls{running: map[string]bool{}, ctx: ctx, cancel: cancel}
}

// Close ends the polls. Those that are pending go on in the next process. One that is in progress holds the lock
// of its consent, for which the broker's Close waits.
func (st *Store) Close() { st.polls.cancel() }

// StartDevice begins a consent on another device, and polls the vendor until the person has decided. It ends
// a pending one. Its errors are those of StartConsent, and *PauseError.
func (st *Store) StartDevice(ctx context.Context, s logical.Storage, name string, claims []string) (*ConsentAttempt, error) {
	stored, consent, unlock, err := st.beginConsent(ctx, s, name, claims)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := cmp.Or(st.devicePauses.check(name), st.isPaused(name)); err != nil {
		return nil, err
	}
	device, err := consent.BeginDevice(ctx)
	if err != nil {
		var e *provider.Error
		if errors.As(err, &e) && e.Kind != provider.Invalid && !e.NotSent { // otherwise the vendor was not called
			st.devicePauses.begin(name, e.RetryAfter)
		}
		return nil, err
	}
	st.devicePauses.begin(name, device.Interval)
	c := &ConsentAttempt{
		State: ConsentPending, Digest: digestOf(device.DeviceCode), Generation: stored.Generation, SentTo: stored.to,
		ExpireTime: wallTime().Add(device.ExpiresIn), ClaimNames: claims,
		Device: &DeviceCode{device.DeviceCode, device.UserCode, device.VerificationURI, device.VerificationURIComplete, device.Interval},
	}
	if err := putAttempt(ctx, s, name, c); err != nil {
		return nil, err
	}
	st.poll(s, name, openedConsent{interval: c.Device.Interval})
	return c, nil
}

// resumeTimeout bounds ResumeDevices, which Vault waits for (guarantee 11).
const resumeTimeout = 2 * time.Second

// ResumeDevices polls the pending consents that another process began: before a restart, or on another node.
// If storage is slow, the next call tries again.
func (st *Store) ResumeDevices(ctx context.Context, s logical.Storage) error {
	st.polls.mu.Lock()
	isDone := st.polls.resumed || st.polls.ctx.Err() != nil
	st.polls.mu.Unlock()
	if isDone {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, resumeTimeout)
	defer cancel()
	names, err := storage.List(ctx, s, storage.ConsentKey(""))
	if err != nil {
		return err
	}
	for _, name := range names {
		if c, err := st.readAttempt(ctx, s, name); err == nil && c != nil && c.Device != nil && c.State == ConsentPending {
			// The process may have been asked to slow down, and have ended before it stored that.
			st.poll(s, name, openedConsent{interval: c.Device.Interval + slowDown})
		} else if storage.IsError(err) {
			return err
		}
	}
	st.polls.mu.Lock()
	defer st.polls.mu.Unlock()
	st.polls.resumed = true
	return nil
}

// poll polls for a consent in the background, unless that is done already. The first poll is after the interval,
// as another process may have polled just now.
func (st *Store) poll(s logical.Storage, name string, opened openedConsent) {
	p := st.polls
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running[name] || p.ctx.Err() != nil {
		return
	}
	p.running[name] = true
	go func() {
		defer func() {
			if recovered := recover(); recovered != nil { // the process serves other mounts as well
				_ = broker.Panicked(st.Logger().With("name", name), recovered)
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			delete(p.running, name)
		}()
		st.pollUntilDecided(p.ctx, s, name, opened)
	}()
}

func (st *Store) pollUntilDecided(ctx context.Context, s logical.Storage, name string, opened openedConsent) {
	wait := opened.interval
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		next, err := st.pollOnce(ctx, s, name, &opened)
		if err != nil {
			st.options.Ended(name, err)
		}
		if next == 0 {
			return
		}
		wait = next
	}
}

// An openedConsent is a consent that is open between two polls, so that the issuer's metadata is read once.
type openedConsent struct {
	generation string
	provider.Consent

	// interval is the longest that the vendor has asked for. Storage may not have accepted it.
	interval time.Duration

	// slowDowns is how often in a row the vendor has asked to slow down. A vendor may count from an interval that
	// this process does not know, and add to it at each poll that is too early.
	slowDowns int

	// isInterrupted is whether this process could not poll just now, so that another one may have.
	isInterrupted bool
}

// interrupted returns when to try again after this process could not poll.
func (o *openedConsent) interrupted() time.Duration {
	o.isInterrupted = true
	return max(o.interval, slowDown)
}

// pollOnce asks the vendor whether the person has decided. It returns the time until the next poll; zero if
// there is none.
func (st *Store) pollOnce(ctx context.Context, s logical.Storage, name string, opened *openedConsent) (next time.Duration, err error) {
	ctx = pacing.With(ctx, pacing.NewAdmission(name, pacing.Awaited))
	unlock, err := st.broker.Lock(ctx, storage.ConsentKey(name))
	if err != nil {
		return opened.interrupted(), nil //nolint:nilerr // the next poll tries again
	}
	defer unlock()
	c, err := st.readAttempt(ctx, s, name)
	switch {
	case storage.IsError(err):
		return opened.interrupted(), nil //nolint:nilerr // the next poll tries again
	case err != nil || c == nil || c.Device == nil || c.State != ConsentPending:
		return 0, nil //nolint:nilerr // another consent has begun, or the credential is deleted
	}
	n, err := st.beginConnection(ctx, s, name, c)
	switch {
	case errors.Is(err, errConnected):
		st.putEnd(ctx, s, name, c.end(ConsentConnected, ""))
		return 0, nil
	case errors.Is(err, errChanged):
		return 0, st.endDevice(ctx, s, name, c, ConsentFailed, ReasonChanged, err.Error())
	case storage.IsError(err) || errors.Is(err, broker.ErrBusy) || errors.Is(err, broker.ErrClosed):
		return opened.interrupted(), nil
	case err != nil:
		return 0, st.endDevice(ctx, s, name, c, ConsentFailed, ReasonFailed, err.Error())
	}
	defer n.end()
	// The vendor is asked only if its answer can be stored: not by a node that is not active any more.
	if err := n.changes.Of(name).Probe(n.ctx); err != nil {
		return opened.interrupted(), nil //nolint:nilerr // the next poll tries again
	}
	if opened.generation != n.stored.Generation {
		opened.generation, opened.Consent = n.stored.Generation, n.consent
	}
	opened.interval = max(opened.interval, c.Device.Interval)
	if opened.isInterrupted {
		opened.isInterrupted = false
		return opened.interval, nil
	}
	answer, person, err := opened.RedeemDevice(n.ctx, c.Device.DeviceCode)
	var refusal *provider.Error
	switch {
	case err == nil:
		err := st.complete(n, s, c, func(context.Context) (*provider.Answer, provider.Person, error) { return answer, person, nil })
		var ended *ConsentError
		if err != nil && !errors.As(err, &ended) {
			return 0, st.endDevice(n.ctx, s, name, c, ConsentFailed, ReasonFailed, err.Error())
		}
		st.options.Ended(name, err)
		return 0, nil
	case isUnsent(err):
		return max(opened.interval, slowDown), nil
	case !errors.As(err, &refusal) || refusal.Kind == provider.Unavailable && refusal.Code != provider.CodeSlowDown:
		next, _ := st.pauseAfter(name, err)
		return max(opened.interval, slowDown, time.Until(next)), nil // an outage passes; the code may expire meanwhile
	case refusal.Code == provider.CodePending:
		opened.slowDowns = 0
		return opened.interval, nil
	case refusal.Code == provider.CodeSlowDown:
		opened.slowDowns++
		opened.interval += time.Duration(opened.slowDowns) * slowDown
		c.Device.Interval = opened.interval
		if err := putAttempt(n.ctx, s, name, c); err != nil {
			st.Logger().Debug("cannot store the interval of a consent", "name", name, "error", err)
		}
		return opened.interval, nil
	case refusal.Code == provider.CodeExpired:
		return 0, st.endDevice(n.ctx, s, name, c, ConsentExpired, ReasonExpired, "the person took too long")
	case strings.Contains(refusal.Reason, provider.CodeDenied): // it has no Code, as it can mean something else elsewhere
		return 0, st.endDevice(n.ctx, s, name, c, ConsentRefused, ReasonRefused, refusal.Reason)
	}
	return 0, st.endDevice(n.ctx, s, name, c, ConsentFailed, ReasonFailed, refusal.Reason)
}

// endDevice stores that a consent on another device yields nothing.
func (st *Store) endDevice(ctx context.Context, s logical.Storage, name string, c *ConsentAttempt, state ConsentState, reason ConsentReason, text string) error {
	st.putEnd(ctx, s, name, c.end(state, text))
	return &ConsentError{Reason: reason, Name: name, Err: errors.New(text)}
}

func (d *DeviceCode) withoutCode() *DeviceCode {
	next := *d
	next.DeviceCode = ""
	return &next
}
