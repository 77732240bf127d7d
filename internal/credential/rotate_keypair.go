package credential

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

const (
	// maxRotations is how many key pairs one sweep rotates, and rotationsTimeout how long it begins
	// further ones.
	maxRotations     = 16
	rotationsTimeout = 20 * time.Second

	// sweepWait is how long a sweep waits for them. Vault holds a lock in the meantime. What has begun
	// goes on.
	sweepWait = 15 * time.Second

	// stepTimeout bounds the storage access of one step, and the wait for its locks.
	stepTimeout = 30 * time.Second
)

// SweepKeypairs rotates the key pairs that are due by their schedules. It returns within 15 s, and leaves the
// rest to the next sweep. Its error joins those of storage; a vendor's is in the log and in keypair/<name>.
func (st *Store) SweepKeypairs(ctx context.Context, s logical.Storage) error {
	closing := st.polls.ctx
	if closing.Err() != nil || !st.isRotating.CompareAndSwap(false, true) {
		return nil // the engine has stopped, or those of an earlier sweep go on
	}
	ended := make(chan error, 1)
	go func() {
		err := st.rotateDue(closing, s)
		if closing.Err() != nil {
			err = nil
		}
		st.isRotating.Store(false) // before the sweep ends, as the next one may follow at once
		ended <- err
	}()
	timer := time.NewTimer(sweepWait)
	defer timer.Stop()
	select {
	case err := <-ended:
		if st.polls.ctx.Err() != nil { // the engine has stopped
			return nil
		}
		return err
	case <-timer.C:
	case <-closing.Done():
	case <-ctx.Done():
	}
	return nil
}

// rotateDue rotates the key pairs that are due, until ctx is done.
func (st *Store) rotateDue(ctx context.Context, s logical.Storage) (err error) {
	defer func() {
		if recovered := recover(); recovered != nil { // the process serves other mounts as well
			err = broker.Panicked(st.Logger(), recovered)
		}
	}()
	end := time.Now().Add(rotationsTimeout)
	if err := st.readKeySets(ctx, s); err != nil {
		return err
	}
	var failures []error
	for i, name := range st.keySets.due(wallTime()) {
		if i == maxRotations || time.Now().After(end) {
			break // the next sweep does the rest
		}
		for isDone := false; !isDone && ctx.Err() == nil; {
			var err error
			isDone, err = st.rotateKeypair(ctx, s, name)
			failures = append(failures, err)
		}
	}
	return errors.Join(failures...)
}

// readKeySets reads the key pairs that were not read since a start or a change.
func (st *Store) readKeySets(ctx context.Context, s logical.Storage) error {
	ctx, cancel := context.WithTimeout(ctx, rotationsTimeout)
	defer cancel()
	if err := st.keySets.list(ctx, s); err != nil {
		return err
	}
	for _, name := range st.keySets.unreadNames() {
		if _, err := st.keySets.read(ctx, s, name); err != nil {
			return err
		}
	}
	return nil
}

// rotateKeypair does the next step of a key pair's rotation, and reports whether no further one can be due.
// Its error is of type *storage.Error.
func (st *Store) rotateKeypair(ctx context.Context, s logical.Storage, name string) (isDone bool, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stepTimeout)
	defer cancel()
	k, err := getKeypair(ctx, s, name)
	switch {
	case storage.IsError(err): // nothing shows that the key pair has changed
		return true, err
	case err != nil || k == nil:
		st.keySets.forget(name)
		return true, nil
	}
	switch step, at := k.nextStep(wallTime()); {
	case step == noStep || wallTime().Before(at):
		st.keySets.forget(name) // the step is done, perhaps by another node
		return true, nil
	case step == publishNext:
		err = st.publishNext(ctx, s, name, k.Active.KeyType)
	case step == activateNext:
		err = st.activateNext(ctx, s, name)
	default:
		err = st.amend(ctx, s, name, func(k *Keypair, now time.Time) bool { return k.tidy(now) })
	}
	return err != nil, onlyStorage(err)
}

// tidy does a step that needs only the entry, and reports whether it has changed.
func (k *Keypair) tidy(now time.Time) bool {
	step, at := k.nextStep(now)
	switch {
	case now.Before(at):
		return false
	case step == correctTimes:
		k.correctedTimes(now, true)
	case step == dropRetired:
		k.Publication.Retired = k.Publication.unexpired(now)
	default:
		return false
	}
	return true
}

// onlyStorage returns err if it is of type *storage.Error.
func onlyStorage(err error) error {
	if storage.IsError(err) {
		return err
	}
	return nil
}

// amend stores a change of a key pair, unless change reports that there is none.
func (st *Store) amend(ctx context.Context, s logical.Storage, name string, change func(k *Keypair, now time.Time) bool) error {
	unlock, err := st.lockKeypair(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	k, err := getKeypair(ctx, s, name)
	if storage.IsError(err) {
		return err
	}
	if err != nil || k == nil || !change(k, wallTime()) {
		st.keySets.forget(name)
		return err
	}
	return st.putKeypair(ctx, s, name, k)
}

// publishNext generates the next pair of a key pair, of the same type as the active one.
func (st *Store) publishNext(ctx context.Context, s logical.Storage, name, keyType string) error {
	pair, err := generatePair(keyType) // without the lock, as it may take seconds
	if err != nil {
		return err
	}
	isPublished := false
	err = st.amend(ctx, s, name, func(k *Keypair, now time.Time) bool {
		step, at := k.nextStep(now)
		if step != publishNext || now.Before(at) || k.Active.KeyType != keyType {
			return false
		}
		k.Pending, isPublished = pair.published(now), true
		return true
	})
	if err == nil && isPublished {
		st.Logger().Info("next key published", "keypair", name, "key_id", pair.KeyID)
	}
	return err
}

// errNotDue means that a rotation is not due any more.
var errNotDue = errors.New("the rotation is not due")

// activateNext activates the pending pair of a key pair. If a vendor does not accept it, the pair stays
// pending, and further attempts back off.
func (st *Store) activateNext(ctx context.Context, s logical.Storage, name string) error {
	// No vendor is asked if the result cannot be stored.
	if err := storage.Probe(ctx, s); err != nil {
		return err
	}
	err := st.activate(ctx, s, name, ActivationRequest{bySchedule: true})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errNotDue):
		st.keySets.forget(name) // the step is done, perhaps by another node
		return err
	case errors.Is(err, broker.ErrBusy) || errors.Is(err, broker.ErrClosed) || storage.IsError(err):
		return err // the next sweep tries again
	}
	return st.recordFailure(context.WithoutCancel(ctx), s, name, err)
}

// recordFailure stores that the schedule could not activate the pending pair.
func (st *Store) recordFailure(ctx context.Context, s logical.Storage, name string, failed error) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	text := fmt.Sprintf("%.500s", activationFailure(failed))
	var p Publication
	err := st.amend(ctx, s, name, func(k *Keypair, now time.Time) bool {
		k.Publication.Failures++
		k.Publication.LastError = text
		k.Publication.NextAttempt = now.Add(pauseAfterFailures(k.Publication.Failures, failed))
		p = k.Publication
		return true
	})
	st.Logger().Warn("cannot activate the next key; the active one stays in use", "keypair", name, "failures", p.Failures, "next_attempt", broker.FormatTime(p.NextAttempt), "error", text)
	st.reportRotation(name, p.Failures, "", failed)
	return err
}

// activationFailure returns the text of an activation's error.
func activationFailure(err error) string {
	var refused *VerifyError
	if errors.As(err, &refused) {
		return refused.Error() + "; " + refused.Outcome
	}
	return err.Error()
}

// reportRotation reports that a rotation of a key pair has ended.
func (st *Store) reportRotation(name string, failures int, by string, err error) {
	if st.options.Rotated != nil {
		st.options.Rotated(RotationReport{Path: apipath.Keypair(name), Name: name, Err: err, Failures: failures, By: by})
	}
}

// KeypairRotation returns the state of a key pair's rotation; nil if the key pair is not published. It reads
// storage only after a start or a change. If storage fails, the state is that of before the change, or nil.
func (st *Store) KeypairRotation(ctx context.Context, s logical.Storage, name string) *KeypairRotation {
	set, err := st.KeySet(ctx, s, name)
	if err != nil {
		set, _ = st.keySets.get(name)
	}
	if set == nil {
		return nil
	}
	return set.rotation
}

const (
	// clockTolerance is by how much the clocks of a vendor and of this server may differ.
	clockTolerance = 10 * time.Minute

	// longestAssertion is the lifetime of what a credential has signed that cannot be opened any more. No
	// vendor accepts assertions for longer.
	longestAssertion = time.Hour
)

// longestSigned returns the longest lifetime of what some credentials sign.
func (st *Store) longestSigned(us users) time.Duration {
	var longest time.Duration
	for _, u := range us {
		opened, err := st.open(u)
		if err != nil {
			longest = max(longest, longestAssertion)
			continue
		}
		longest = max(longest, signedLifetime(opened))
	}
	return longest
}

// signedLifetime returns for how long the vendor accepts what a credential's key signs. A token that the
// credential itself signs may be valid for its default_ttl.
func signedLifetime(c *broker.Credential) time.Duration {
	signing, signs := c.Vendor.(provider.Signing)
	if !signs {
		return longestAssertion
	}
	lifetime := signing.SignedLifetime()
	if c.Vendor.Destinations().Signs {
		lifetime = max(lifetime, c.TTL.Default)
	}
	return lifetime
}
