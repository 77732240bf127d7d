package credential

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// A RotationRequest is what an operator sends for a rotation.
type RotationRequest struct {
	// By is who asks, for the status and the events.
	By string

	// Grace is how long the former secret stays valid; nil for the credential's own rotation_grace.
	Grace *time.Duration
}

// A RotationResult is what a rotation has led to.
type RotationResult struct {
	// IsPending is whether the vendor has a new secret but does not accept it yet. The rotation goes on in the
	// background.
	IsPending bool

	// FormerUntil is when the former secret will be removed at the vendor; zero if it is already.
	FormerUntil time.Time
}

// A rotatingEntry is what a rotation changes: a credential, or a client. Nothing else changes it meanwhile.
type rotatingEntry interface {
	// api returns how the secret is replaced. Its error is of kind Invalid, or of type *storage.Error.
	api(ctx context.Context) (provider.Rotation, error)

	// fields returns the stored fields.
	fields() map[string]any

	// hasWorked reports whether a token was issued with the present secret.
	hasWorked() bool

	// save stores the state of the rotation.
	save(ctx context.Context, r *Rotation) error

	// prove exchanges the credential with other fields. Its error is of type *provider.Error or
	// *storage.Error.
	prove(ctx context.Context, fields map[string]any) error

	// commit stores other fields, with the state of the rotation, in one write. isVoid is whether tokens of before
	// are void.
	commit(ctx context.Context, fields map[string]any, r *Rotation, isVoid bool) error
}

// errNotYet means that the vendor does not accept a new secret yet.
var errNotYet = errors.New("the vendor does not accept the new secret yet")

// A rotationRun is one run of the steps of a rotation.
// A run begins with begin.
type rotationRun struct {
	entry   rotatingEntry
	api     provider.Rotation
	plan    rotationPlan
	changed time.Time // when the present secret was stored
	state   Rotation
}

// begin sets api, and corrects times that are ahead of the clock. Its error is of kind Invalid, or of type *storage.Error.
func (r *rotationRun) begin(ctx context.Context, request *RotationRequest) (err error) {
	if corrected, is := r.state.corrected(time.Now()); is {
		if err := r.entry.save(ctx, corrected); err != nil {
			return err
		}
		r.state = *corrected
	}
	if r.api, err = r.entry.api(ctx); err != nil || request == nil || request.Grace == nil {
		return err
	}
	if *request.Grace == 0 { // after a leak
		return nil
	}
	return r.plan.checkGrace(*request.Grace)
}

// run takes the steps that are due. request is not nil if an operator asks for a rotation now. done reports
// whether a new secret is in use since. The error is errNotYet, or of type *provider.Error or *storage.Error; the state
// has it already, unless storage has failed.
func (r *rotationRun) run(ctx context.Context, request *RotationRequest) (done bool, err error) {
	// A secret that cannot be removed must not keep the present one from being replaced, perhaps after a leak.
	left := r.removeDue(ctx)
	if storage.IsError(left) {
		return false, left
	}
	done, err = r.runReplacement(ctx, request)
	if err == nil && left != nil {
		err = r.fail(ctx, left)
	}
	return done, err
}

// runReplacement takes the steps from a pending secret, or from none, to a new one in use.
func (r *rotationRun) runReplacement(ctx context.Context, request *RotationRequest) (done bool, err error) {
	pending, isVoid := r.state.Pending, true
	if pending != nil {
		if request == nil && pending.By != "" && !pending.IsOvertaken {
			request = &RotationRequest{By: pending.By, Grace: &pending.Grace} // who asked for it has not got it yet
		}
		if isVoid, err = r.resume(ctx); err != nil {
			return false, r.fail(ctx, err)
		}
	}
	switch {
	case !isVoid && request != nil:
		if err := r.saveWanted(ctx, request); err != nil {
			return false, err
		}
	case !isVoid:
	case request != nil || r.isDue():
		if err := r.createWithRoom(ctx, request); err != nil {
			return false, r.fail(ctx, err)
		}
	default:
		return false, r.dropPending(ctx)
	}
	done, err = r.replace(ctx)
	if err == nil || errors.Is(err, errNotYet) {
		return done, err
	}
	return done, r.fail(ctx, err)
}

// isDue reports whether the schedule asks for a rotation now. While nothing shows that the present secret works, another
// one would only add to what the vendor has.
func (r *rotationRun) isDue() bool {
	now := time.Now()
	next := r.plan.next(r.changed, now)
	return !next.IsZero() && !now.Before(next) && (len(r.state.Formers) == 0 || r.isProven())
}

// isProven reports whether the vendor has accepted the present secret, so that no former one is needed.
func (r *rotationRun) isProven() bool { return r.api.Rules().CanProve || r.entry.hasWorked() }

// fail stores a failure. It returns it, or why it cannot be stored.
func (r *rotationRun) fail(ctx context.Context, err error) error {
	if storage.IsError(err) || isUnsent(err) {
		return err
	}
	now := time.Now()
	failed := r.state.failed(err, now)
	if failed.due(r.plan, r.changed, now).IsZero() { // nobody tries again, and who asked for it has the error
		failed = r.state.succeeded()
	}
	r.state = *failed
	if saveErr := r.entry.save(ctx, &r.state); saveErr != nil {
		return saveErr
	}
	return err
}

// removeDue removes lost and former secrets whose time has come. A former one may have given its place to one that is not
// in use yet.
func (r *rotationRun) removeDue(ctx context.Context) error {
	left := r.removeLost(ctx)
	if storage.IsError(left) || r.state.Pending != nil && r.state.Pending.Fields != nil {
		return left
	}
	now := time.Now()
	err := r.removeFormers(ctx, func(former FormerSecret) bool { return !now.Before(former.RemoveTime) && r.isProven() })
	if err != nil {
		return err
	}
	return left
}

// removeFormers removes former secrets. Its error is that of the last one that cannot be removed.
func (r *rotationRun) removeFormers(ctx context.Context, is func(FormerSecret) bool) (left error) {
	for i := 0; i < len(r.state.Formers); {
		former := r.state.Formers[i]
		if !is(former) {
			i++
			continue
		}
		if !former.IsEnded {
			if err := r.api.Remove(ctx, former.Fields); err != nil {
				left = provider.Prefixed(err, "the new secret is in use, and a former secret is not removed: ")
				i++
				continue
			}
		}
		next := r.state
		if left == nil {
			next = *next.succeeded()
		}
		next.Formers = slices.Delete(slices.Clone(r.state.Formers), i, i+1)
		if err := r.entry.save(ctx, &next); err != nil {
			return err
		}
		r.state = next
	}
	return left
}

// resume goes on with a pending secret, and reports whether it is void: an operator has written another one meanwhile, or
// the answer to the request for it was lost, so that it was removed.
func (r *rotationRun) resume(ctx context.Context) (isVoid bool, err error) {
	pending, rules := r.state.Pending, r.api.Rules()
	switch {
	case pending.IsOvertaken:
		return true, r.removeOvertaken(ctx)
	case pending.Fields != nil:
		return false, nil
	case rules.IsRepeatable:
		return false, r.repeat(ctx)
	case rules.EndsFormer:
		// The request must not be repeated, as some vendors take the second use of a secret for a theft.
		err := r.entry.prove(ctx, r.entry.fields())
		if isRefused(err) {
			return false, provider.Errorf(provider.Rejected, "the vendor has replaced the secret, and its answer was lost; write a new secret to the credential: %s", err)
		}
		return true, err
	default:
		if err := r.api.Discard(ctx, pending.NewSecret); err != nil {
			return false, provider.Prefixed(err, "what an interrupted rotation has left is not removed: ")
		}
	}
	return true, nil
}

// removeAll removes all secrets but the present one, as far as the vendor does so. The state has the others.
func (r *rotationRun) removeAll(ctx context.Context) error {
	if err := r.begin(ctx, nil); err != nil {
		return err
	}
	r.state.Lost = slices.Clone(r.state.Lost)
	for i := range r.state.Lost {
		r.state.Lost[i].RemoveTime = time.Time{}
	}
	if err := r.removeLost(ctx); err != nil {
		return err
	}
	if err := r.removeFormers(ctx, func(FormerSecret) bool { return true }); err != nil {
		return err
	}
	if r.state.Pending == nil {
		return nil
	}
	if err := r.removeOvertaken(ctx); err != nil {
		return err
	}
	return r.dropPending(ctx)
}

// removeOvertaken removes a pending secret that is not needed any more.
func (r *rotationRun) removeOvertaken(ctx context.Context) error {
	pending, rules := r.state.Pending, r.api.Rules()
	fields := pending.Fields
	if fields == nil {
		var err error
		if fields, err = r.api.Expected(pending.NewSecret); err != nil {
			return err
		}
	}
	var err error
	switch {
	case rules.EndsFormer: // the vendor has only the operator's
	case fields != nil:
		err = r.api.Remove(ctx, fields)
	default:
		err = r.api.Discard(ctx, pending.NewSecret)
	}
	return provider.Prefixed(err, "a new secret that is not needed any more is not removed: ")
}

// withoutPending returns the state without a pending secret that was removed. It may still be at the vendor: some vendors
// say for minutes that they do not know one that they have created.
func (r *rotationRun) withoutPending() Rotation {
	next := r.state
	if next.Pending != nil && r.api.Rules().ListsByName {
		lost := LostSecret{NewSecret: next.Pending.NewSecret, RemoveTime: time.Now().Add(rotationPatience).Round(0).UTC()}
		next.Lost = append(slices.Clone(next.Lost), lost)
	}
	next.Pending = nil
	return next
}

// removeLost looks once more for secrets that the vendor may have issued.
func (r *rotationRun) removeLost(ctx context.Context) error {
	for i := 0; i < len(r.state.Lost); {
		lost := r.state.Lost[i]
		if time.Now().Before(lost.RemoveTime) {
			i++
			continue
		}
		if err := r.api.Discard(ctx, lost.NewSecret); err != nil {
			return provider.Prefixed(err, "what an interrupted rotation has left is not removed: ")
		}
		next := *r.state.succeeded()
		next.Lost = slices.Delete(slices.Clone(r.state.Lost), i, i+1)
		if err := r.entry.save(ctx, &next); err != nil {
			return err
		}
		r.state = next
	}
	return nil
}

// dropPending stores that there is no pending secret.
func (r *rotationRun) dropPending(ctx context.Context) error {
	if r.state.Pending == nil {
		return nil
	}
	next := r.withoutPending()
	if err := r.entry.save(ctx, &next); err != nil {
		return err
	}
	r.state = next
	return nil
}

// replace proves the new secret and puts it in the place of the former one. done reports whether it is in use since.
func (r *rotationRun) replace(ctx context.Context) (done bool, err error) {
	pending, rules := r.state.Pending, r.api.Rules()
	fields, replaced := pending.replace(r.entry.fields(), rules.Replaces)
	if err := r.entry.prove(ctx, fields); err != nil {
		return false, r.notProven(ctx, err)
	}
	next := *r.state.succeeded()
	now := time.Now().Round(0).UTC()
	former := FormerSecret{Version: r.state.Version, Fields: replaced, Grace: pending.Grace, IsEnded: rules.EndsFormer}
	if former.IsEnded {
		former.Grace = min(former.Grace, rotationPatience) // until all of the vendor's servers know the new one
	}
	former.RemoveTime = now.Add(former.Grace)
	next.Formers = append([]FormerSecret{former}, r.state.Formers...)
	next.Pending, next.LastTime, next.LastBy = nil, now, pending.By
	if next.Version, err = newGeneration(); err != nil {
		return false, err
	}
	if err := r.entry.commit(ctx, fields, &next, pending.Grace == 0); err != nil {
		return false, err
	}
	r.state = next
	if pending.Grace > 0 {
		return true, nil
	}
	if r.api, err = r.entry.api(ctx); err != nil { // with the authorization of the new secret
		return true, err
	}
	return true, r.removeFormers(ctx, func(FormerSecret) bool { return true })
}

// replace returns the fields with the new secret, and the former ones of those that it replaces. A key that is
// generated replaces a key pair: it belongs to the credential. nil stands for a field that is not set.
func (p *PendingSecret) replace(stored map[string]any, replaced []string) (fields, former map[string]any) {
	if p.Fields["private_key"] != nil && stored["private_key_source"] != nil {
		replaced = append(slices.Clone(replaced), "private_key_source", "keypair")
	}
	fields, former = maps.Clone(stored), map[string]any{}
	for _, name := range replaced {
		former[name] = stored[name]
		delete(fields, name)
	}
	delete(fields, "expires") // that of the former secret
	maps.Copy(fields, p.Fields)
	return fields, former
}

// notProven returns the error of a new secret that the vendor does not accept: errNotYet while it may not know it
// everywhere. After that, the new secret is removed, unless it is the only one.
func (r *rotationRun) notProven(ctx context.Context, err error) error {
	pending := r.state.Pending
	switch {
	case storage.IsError(err) || !isRefused(err):
		return err
	case time.Since(pending.CreateTime) < rotationPatience:
		return errNotYet
	case r.api.Rules().EndsFormer:
		return provider.Prefixed(err, "the vendor does not accept the new secret: ")
	}
	if removeErr := r.api.Remove(ctx, pending.Fields); removeErr != nil {
		return provider.Prefixed(removeErr, "the vendor does not accept the new secret, and it is not removed: ")
	}
	r.state = r.withoutPending()
	return provider.Prefixed(err, "the vendor does not accept the new secret: ")
}

// isRefused reports whether a vendor has refused an exchange, rather than being unavailable.
func isRefused(err error) bool {
	var failure *provider.Error
	return errors.As(err, &failure) && (failure.Kind == provider.Rejected || failure.Kind == provider.Expired)
}
