package credential

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/hashicorp/go-uuid"

	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// repeat asks for the same secret again, unless the vendor accepts it already: the present one may then have ended.
func (r *rotationRun) repeat(ctx context.Context) error {
	pending := *r.state.Pending
	expected, err := r.api.Expected(pending.NewSecret)
	if err != nil {
		return err
	}
	created := pending
	created.Fields, created.CreateTime = expected, time.Now().Round(0).UTC()
	fields, _ := created.replace(r.entry.fields(), r.api.Rules().Replaces)
	switch err := r.entry.prove(ctx, fields); {
	case isRefused(err):
		return r.ask(ctx, &pending, true)
	case err != nil:
		return err
	}
	r.state.Pending = &created
	return r.entry.save(ctx, &r.state)
}

// saveWanted stores what a request wants of the pending secret, as the vendor may not accept that yet.
func (r *rotationRun) saveWanted(ctx context.Context, request *RotationRequest) error {
	wanted := r.state.Pending.askedFor(request)
	if wanted.By == r.state.Pending.By && wanted.Grace == r.state.Pending.Grace {
		return nil
	}
	r.state.Pending = wanted
	return r.entry.save(ctx, &r.state)
}

// maxFormerSecrets is how many replaced secrets stay valid at a time, however often an operator asks for a rotation.
const maxFormerSecrets = 3

// createWithRoom is create for a vendor that may have no room for another secret: then the former ones make room.
func (r *rotationRun) createWithRoom(ctx context.Context, request *RotationRequest) error {
	var surplus []string
	for i, former := range r.state.Formers {
		if i+1 >= maxFormerSecrets {
			surplus = append(surplus, former.Version)
		}
	}
	isSurplus := func(former FormerSecret) bool { return slices.Contains(surplus, former.Version) }
	if err := r.removeFormers(ctx, isSurplus); err != nil {
		return err
	}
	err := r.create(ctx, request)
	var failure *provider.Error
	isRefused := errors.As(err, &failure) && failure.NotConsidered && failure.Kind == provider.Rejected
	if !isRefused || len(r.state.Formers) == 0 || !r.isProven() {
		return err
	}
	count := len(r.state.Formers)
	switch leftErr := r.removeFormers(ctx, func(FormerSecret) bool { return true }); {
	case storage.IsError(leftErr):
		return leftErr
	case len(r.state.Formers) == count:
		return err
	}
	return r.create(ctx, request)
}

// create makes the vendor issue or accept a new secret.
func (r *rotationRun) create(ctx context.Context, request *RotationRequest) error {
	id, err := uuid.GenerateUUID()
	if err != nil {
		return err
	}
	now := time.Now()
	rules := r.api.Rules()
	if rules.EndsFormer && rules.ProvesItself {
		// Some vendors take the use of an ended secret to get another one for a theft.
		if err := r.api.Prove(ctx); err != nil {
			return provider.Prefixed(err, "the present secret is not used to ask for a new one: ")
		}
	}
	pending := &PendingSecret{
		NewSecret: provider.NewSecret{Name: "vault-" + id, StartTime: now.Round(0).UTC(), ExpireTime: r.plan.expiryOf(now, rules.MaxLifetime)},
		Grace:     r.plan.grace,
	}
	pending = pending.askedFor(request)
	if err := r.api.Prepare(ctx, &pending.NewSecret); err != nil {
		return err
	}
	next := r.withoutPending()
	next.Pending = pending
	if err := r.entry.save(ctx, &next); err != nil { // ahead of the request
		return err
	}
	r.state = next
	return r.ask(ctx, pending, false)
}

// askedFor returns the pending secret as a request wants it; a nil request wants nothing.
func (p *PendingSecret) askedFor(request *RotationRequest) *PendingSecret {
	if request == nil {
		return p
	}
	own := *p
	own.By = request.By
	if request.Grace != nil {
		own.Grace = *request.Grace
	}
	return &own
}

// ask sends the requests for a new secret, and stores what they yield. isRepeated is whether the vendor may have
// considered earlier requests for the same secret: it may have it then, whatever becomes of these.
func (r *rotationRun) ask(ctx context.Context, pending *PendingSecret, isRepeated bool) error {
	fields, err := r.api.Create(ctx, pending.NewSecret)
	var failure *provider.Error
	if errors.As(err, &failure) && failure.NotConsidered && !isRepeated {
		r.state.Pending = nil // fail stores that
	}
	if err != nil {
		return err
	}
	created := *pending
	created.Fields, created.CreateTime = fields, time.Now().Round(0).UTC()
	r.state.Pending = &created
	return r.entry.save(ctx, &r.state)
}
