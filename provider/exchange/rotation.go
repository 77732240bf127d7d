package exchange

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

// A Rotation replaces a secret of a client by requests. It implements provider.Rotation.
type Rotation struct {
	// Client is the client whose secret is replaced. Its values are those of placeholders.
	Client *Client

	// Authorize issues the access token, {rotation_token}, that authorizes the requests; nil if they
	// need none.
	Authorize *Client

	// Vendor are the vendor's rules, and SecretFields those of the replaced fields that are secret.
	Vendor       provider.RotationRules
	SecretFields []string

	// Key is the kind of key that the engine chooses, and Secret whether it chooses a secret. Alternates is
	// a field that has the other one of two values after a rotation; "" if there is none. Values are its two.
	Key        KeyKind
	Secret     bool
	Alternates string
	Pair       []string

	// Creating are the requests that create a secret, and New has the fields of a credential with it.
	Creating []RotationStep
	New      map[string]Template

	// Proving is the request that the vendor answers if it accepts the secret; nil if an exchange shows that.
	Proving []RotationStep

	// Listings find what an interrupted Create has left.
	Listings []Listing

	// Removing are the requests that remove a secret. In them, the placeholders of fields have the values that
	// belong to it, and {current_<field>} those of the present secret. Gone are texts in the refusal of one that is
	// removed already.
	Removing []RotationStep
	Gone     []string

	// URLs are those of all requests, with the names of the fields that a rotation replaces for their values.
	URLs []string
}

// Steps returns all requests.
func (r *Rotation) Steps() []RotationStep {
	steps := slices.Concat(r.Creating, r.Proving, r.Removing)
	for _, l := range r.Listings {
		steps = append(steps, l.RotationStep)
	}
	return steps
}

// A RotationStep is a request of a rotation. Unlike that of a Step, its URL may depend on fields that the rotation
// changes, and what is kept may be any JSON value. KeepOptional is Keep for values that the answer need not have.
type RotationStep struct {
	URL          Template
	Request      Request
	Keep         map[string]string
	KeepOptional map[string]string

	// MayFail is whether a refusal of the request does not matter.
	MayFail bool
}

// Rules implements provider.Rotation.
func (r *Rotation) Rules() provider.RotationRules { return r.Vendor }

// Prepare implements provider.Rotation.
func (r *Rotation) Prepare(ctx context.Context, n *provider.NewSecret) error {
	chosen := map[string]string{}
	if err := r.spreadExpiry(n); err != nil {
		return err
	}
	if err := r.Key.choose(chosen, textOf(r.Client.Values["private_key"], nil), *n); err != nil {
		return err
	}
	if r.Secret {
		chosen[provider.ChosenSecret] = rand.Text() + rand.Text()
	}
	if r.Alternates != "" {
		chosen["new_"+r.Alternates] = r.Pair[0]
		if textOf(r.Client.Values[r.Alternates], nil) == r.Pair[0] {
			chosen["new_"+r.Alternates] = r.Pair[1]
		}
	}
	n.Chosen = chosen
	if !slices.ContainsFunc(r.Listings, Listing.needsKnown) {
		return nil
	}
	values, ctx, err := r.begin(ctx, *n)
	if err != nil {
		return err
	}
	var all []string
	for _, l := range r.Listings {
		listed, err := r.list(ctx, l, values, time.Time{})
		if err != nil {
			return err
		}
		for _, fields := range listed {
			all = append(all, identity(fields))
		}
	}
	chosen[known] = strings.Join(all, "\n")
	return nil
}

// Create implements provider.Rotation.
func (r *Rotation) Create(ctx context.Context, n provider.NewSecret) (map[string]any, error) {
	values, ctx, err := r.begin(ctx, n)
	if err != nil {
		return nil, considered(err, false)
	}
	for i := range r.Creating {
		if err := r.run(ctx, r.Creating[i:i+1], values); err != nil {
			return nil, r.createFailed(i, err)
		}
	}
	return r.newFields(values)
}

// Expected implements provider.Rotation.
func (r *Rotation) Expected(n provider.NewSecret) (map[string]any, error) {
	if !r.Vendor.IsRepeatable {
		return nil, nil
	}
	values := r.Client.values("")
	if err := addChosen(values, n); err != nil {
		return nil, err
	}
	return r.newFields(values)
}

// createFailed returns the error of a request of Create. If it is certain that the vendor has created nothing, the
// error says so.
func (r *Rotation) createFailed(step int, err error) error {
	for _, earlier := range r.Creating[:step] {
		if earlier.Request.Method != http.MethodGet {
			return considered(err, true)
		}
	}
	var failure *provider.Error
	isRefused := errors.As(err, &failure) && failure.Status >= 400 && failure.Status < 500 && failure.Status != http.StatusRequestTimeout
	switch {
	case isRefused || r.Creating[step].Request.Method == http.MethodGet:
		return considered(err, false)
	case failure != nil && failure.Status != 0: // a gateway may say that the vendor is unavailable after that has done it
		return considered(err, true)
	}
	return err
}

// considered returns an error that reports whether the vendor may have considered the requests.
func considered(err error, is bool) error {
	var failure *provider.Error
	if !errors.As(err, &failure) {
		return err
	}
	own := *failure
	own.NotConsidered = !is
	return &own
}

// Prove implements provider.Rotation.
func (r *Rotation) Prove(ctx context.Context) error {
	if len(r.Proving) == 0 && r.Authorize == nil {
		return nil
	}
	values, ctx, err := r.begin(ctx, provider.NewSecret{})
	if err != nil {
		return err
	}
	return r.run(ctx, r.Proving, values)
}

// Remove implements provider.Rotation.
func (r *Rotation) Remove(ctx context.Context, former map[string]any) error {
	if len(r.Removing) == 0 {
		return nil
	}
	values, ctx, err := r.begin(ctx, provider.NewSecret{})
	if err != nil {
		return err
	}
	return r.remove(ctx, values, former)
}

// remove removes the secret of which the fields are known. A request that depends on another field of a secret is not
// sent, so that it cannot concern the present one.
func (r *Rotation) remove(ctx context.Context, values Values, fields map[string]any) error {
	own := maps.Clone(values)
	for _, name := range r.Vendor.Replaces {
		own["current_"+name] = values[name]
		delete(own, name)
	}
	maps.Copy(own, fields)
	isUnknown := func(name string) bool { return own[name] == nil && slices.Contains(r.Vendor.Replaces, name) }
	if r.isPresent(own) {
		return nil
	}
	for _, step := range r.Removing {
		if slices.ContainsFunc(append(step.Request.Names(), step.URL.Names()...), isUnknown) {
			continue
		}
		var failure *provider.Error
		err := r.run(ctx, []RotationStep{step}, own)
		isGone := func(text string) bool { return strings.Contains(failure.Reason, text) }
		if errors.As(err, &failure) && (failure.Status == http.StatusNotFound || failure.Status == http.StatusGone || slices.ContainsFunc(r.Gone, isGone)) {
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// isPresent reports whether the requests that remove a secret would find the present one by the values, such as when a new
// secret has taken the place of a former one.
func (r *Rotation) isPresent(values Values) bool {
	isFound := false
	isReplaced := func(name string) bool { return slices.Contains(r.Vendor.Replaces, name) }
	for _, step := range r.Removing {
		if slices.ContainsFunc(step.URL.Names(), isReplaced) {
			of, err := FillURL(step.URL, values)
			present, presentErr := FillURL(step.URL, r.Client.Values)
			if err != nil || presentErr != nil || of != present {
				return false
			}
			isFound = true
		}
		for _, name := range step.Request.Names() {
			if !isReplaced(name) {
				continue
			}
			if textOf(values[name], nil) != textOf(r.Client.Values[name], nil) {
				return false
			}
			isFound = true
		}
	}
	return isFound
}

// begin returns the values of the placeholders of a rotation's requests, and the context in which no error
// quotes a secret among them.
func (r *Rotation) begin(ctx context.Context, n provider.NewSecret) (Values, context.Context, error) {
	values := r.Client.values("")
	if err := addChosen(values, n); err != nil {
		return nil, nil, err
	}
	ctx = provider.WithSecrets(ctx, append(n.Secrets(), r.Client.Secrets...)...)
	if r.Authorize == nil {
		return values, ctx, nil
	}
	answer, err := r.Authorize.Exchange(ctx, provider.Grant{})
	if err != nil {
		return nil, nil, provider.Prefixed(err, "no access token for the requests of the rotation: ")
	}
	values["rotation_token"] = answer.AccessToken
	return values, provider.WithSecrets(ctx, answer.AccessToken), nil
}

// addChosen adds what the engine chose of a new secret.
func addChosen(values Values, n provider.NewSecret) error {
	if n.Name == "" {
		return nil
	}
	values["new_name"] = n.Name
	for name, text := range n.Chosen {
		if name != known {
			values[name] = text
		}
	}
	if !n.ExpireTime.IsZero() {
		values["new_expires"] = n.ExpireTime.UTC().Format(time.RFC3339)
		values["new_expires_date"] = n.ExpireTime.UTC().Format(time.DateOnly)
		values["new_lifetime"] = int64(time.Until(n.ExpireTime).Seconds())
	}
	return addPublic(values, n.Chosen)
}

// run sends requests, and adds what is kept of their answers to the values.
func (r *Rotation) run(ctx context.Context, steps []RotationStep, values Values) error {
	for _, step := range steps {
		body, reply, err := r.send(ctx, step, values)
		var failure *provider.Error
		if step.MayFail && errors.As(err, &failure) && failure.Status >= 400 && failure.Status < 500 {
			continue
		}
		if err != nil {
			return err
		}
		if err := r.keep(ctx, step, body, reply, values); err != nil {
			return err
		}
	}
	return nil
}

// send sends the request of a step, with no error that quotes a secret among the values, and returns the decoded answer; nil if it is not JSON.
func (r *Rotation) send(ctx context.Context, step RotationStep, values Values) (any, *provider.Reply, error) {
	endpoint, err := FillURL(step.URL, values)
	if err != nil {
		return nil, nil, err
	}
	ctx = provider.WithSecrets(ctx, r.secrets(values)...)
	reply, err := r.Client.send(ctx, r.Client.Server.tokenField(), endpoint, step.Request, None, values)
	if err != nil {
		return nil, nil, err
	}
	if reply.HasError() { // some vendors send errors with status 200
		return nil, nil, reply.Refusal()
	}
	var body any
	decoder := json.NewDecoder(bytes.NewReader(reply.Body))
	decoder.UseNumber()
	if decoder.Decode(&body) != nil {
		body = nil
	}
	return body, reply, nil
}
