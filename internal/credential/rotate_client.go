package credential

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/pacing"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// RotateClient replaces the secret of a client at its vendor, now. While the vendor refuses the new one, exchanges
// use the former one. Its errors are those of WriteClient.
func (st *Store) RotateClient(ctx context.Context, s logical.Storage, name string, request RotationRequest) (RotationResult, error) {
	var result RotationResult
	ctx = pacing.With(ctx, pacing.NewAdmission(name, pacing.Operator))
	err := st.rotateClient(ctx, s, name, func(ctx context.Context, run *rotationRun, vendor string) error {
		if err := run.begin(ctx, &request); err != nil {
			return err
		}
		done, err := run.run(ctx, &request)
		st.reportRun(apipath.Client(name), vendor, name, request.By, run, done, err)
		if errors.Is(err, errNotYet) {
			result.IsPending, err = true, nil
		}
		result.FormerUntil = run.state.formerUntil()
		return err
	})
	return result, err
}

// rotateDueClient takes the steps of a client's rotation that are due.
func (st *Store) rotateDueClient(ctx context.Context, s logical.Storage, name string) error {
	ctx = pacing.With(ctx, pacing.NewAdmission(name, pacing.Background))
	return st.rotateClient(ctx, s, name, func(ctx context.Context, run *rotationRun, vendor string) error {
		return st.runDue(ctx, run, apipath.Client(name), vendor, name)
	})
}

// rotateClient calls f with a run of the rotation of a client, which nothing else changes meanwhile.
func (st *Store) rotateClient(ctx context.Context, s logical.Storage, name string, f func(ctx context.Context, run *rotationRun, vendor string) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), clientRotationTimeout)
	defer cancel()
	change, err := st.beginClient(ctx, s, name, "")
	if err != nil {
		return err
	}
	defer change.end()
	if change.stored == nil || change.vendor == nil {
		return provider.Errorf(provider.Invalid, "no client found at %s; create it first", apipath.Client(name))
	}
	run, err := change.rotationRun()
	if err != nil {
		return err
	}
	return f(ctx, run, change.stored.Vendor)
}

// rotationRun returns a run of the rotation of the client. Its error is of kind Invalid.
func (c *clientChange) rotationRun() (*rotationRun, error) {
	inStorage := c.stored
	if kept, err := c.store.unsavedRotations.get(storage.ClientKey(c.name), c.stored.Rotation); err != nil {
		stored := *c.stored
		stored.Rotation, c.stored = kept, &stored
	} else {
		c.store.unsavedRotations.drop(storage.ClientKey(c.name))
	}
	plan, err := c.stored.rotationPlan()
	if err != nil {
		return nil, err
	}
	run := &rotationRun{entry: &rotatingClient{change: c, inStorage: inStorage}, plan: plan, changed: c.stored.SecretsTime}
	if c.stored.Rotation != nil {
		run.state = *c.stored.Rotation
	}
	return run, nil
}

// removeSecrets removes the secrets at the vendor that a rotation has created or replaced, but for the present one. It
// describes those that it could not remove.
func (c *clientChange) removeSecrets() []string {
	if c.stored == nil || c.stored.Rotation == nil || c.vendor == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(c.ctx, removalTimeout)
	defer cancel()
	left := c.stored.Rotation
	if run, err := c.rotationRun(); err == nil {
		if err := run.removeAll(ctx); err != nil {
			c.store.Logger().Warn("a deletion leaves secrets at the vendor", "path", apipath.Client(c.name), "error", err)
		}
		left = &run.state
	}
	return left.leftovers(FieldSchemas(c.vendor))
}

// clientRotationTimeout bounds the rotation of a client, like that of a credential.
const clientRotationTimeout = 13 * time.Minute

// rotationPlan returns when the secret of the client is replaced. Its error is of kind Invalid.
func (c *Client) rotationPlan() (rotationPlan, error) {
	_, common, err := decodeCommon(c.Fields)
	if err != nil {
		return rotationPlan{}, err
	}
	return common.rotationPlan()
}

// RotationStatus returns what operators see of the rotation of the client; nil if there is none.
func (c *Client) RotationStatus(now time.Time) *broker.RotationStatus {
	plan, err := c.rotationPlan()
	if err != nil {
		return nil
	}
	return c.Rotation.status(plan, c.SecretsTime, now)
}

// open returns the client with the given fields as if it were a credential. Its errors are those of open.
func (c *clientChange) open(ctx context.Context, fields map[string]any) (*broker.Credential, error) {
	key, _, err := readKey(ctx, c.storage, keypairOf("", fields))
	if err != nil {
		return nil, err
	}
	use := &clientUse{name: c.name, Client: &Client{Vendor: c.vendor.Name(), Fields: fields}}
	own := &storedCredential{Entry: &Entry{}, vendor: c.vendor, name: c.name, client: use, key: key}
	opened, err := c.store.openUnchecked(own)
	if err != nil && FieldSchemas(c.vendor)["refresh_token"] != nil {
		own.Entry = &Entry{Fields: map[string]any{"refresh_token": refreshTokenOf}}
		opened, err = c.store.openUnchecked(own)
	}
	return opened, err
}

// checkRotation returns an error of kind Invalid if the client has a plan of a rotation that is not possible.
func (c *clientChange) checkRotation(next *Client) error {
	for _, field := range rotationFields {
		if next.Fields[field] == nil {
			continue
		}
		opened, err := c.open(c.ctx, next.Fields)
		if err != nil {
			return err
		}
		plan, err := next.rotationPlan()
		if err == nil {
			err = plan.check(field, opened)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// A rotatingClient is a client whose secret is replaced. It implements rotatingEntry.
type rotatingClient struct {
	change    *clientChange
	inStorage *Client // what storage has
}

// rotationWith returns how the secret of the client is replaced if it has the given fields.
func (c *rotatingClient) rotationWith(ctx context.Context, fields map[string]any) (provider.Rotation, error) {
	opened, err := c.change.open(ctx, fields)
	if err != nil {
		return nil, err
	}
	if err := checkStays(opened.SentTo, c.change.stored.SentTo); err != nil {
		return nil, err
	}
	return provider.RotationOf(opened.Vendor)
}

func (c *rotatingClient) api(ctx context.Context) (provider.Rotation, error) {
	return c.rotationWith(ctx, c.change.stored.Fields)
}

func (c *rotatingClient) fields() map[string]any { return c.change.stored.Fields }

func (c *rotatingClient) hasWorked() bool {
	return c.change.store.broker.HasWorked(c.change.name, "", c.change.stored.Secrets)
}

func (c *rotatingClient) save(ctx context.Context, r *Rotation) error {
	next := *c.change.stored
	last := next.Rotation
	next.Rotation = r
	if last != nil && len(last.Formers) > 0 && len(r.Formers) == 0 {
		next.Formers = nil // the vendor does not accept them any more
	}
	return c.put(ctx, &next)
}

// put stores another state of the client. What cannot be stored is kept in memory. The error is broker.ErrBusy if another
// node has written the client meanwhile.
func (c *rotatingClient) put(ctx context.Context, next *Client) error {
	current, err := getClient(ctx, c.change.storage, c.change.name)
	switch {
	case err == nil && (current == nil || !current.isSame(c.inStorage)):
		return broker.ErrBusy
	case err == nil || !storage.IsError(err): // a damaged one is repaired
		err = c.change.put(next)
	}
	c.change.store.unsavedRotations.keep(storage.ClientKey(c.change.name), next.Rotation, err, func(ctx context.Context) error { return c.put(ctx, next) })
	if err == nil {
		c.change.stored, c.inStorage = next, next
	}
	return err
}

// isSame reports whether nothing that a rotation depends on differs.
func (c *Client) isSame(other *Client) bool {
	return c.Secrets == other.Secrets && isSameJSON(c.Fields, other.Fields) && isSameJSON(c.Rotation, other.Rotation)
}

func (c *rotatingClient) prove(ctx context.Context, fields map[string]any) error {
	rotation, err := c.rotationWith(ctx, fields)
	if err != nil {
		return err
	}
	return rotation.Prove(ctx)
}

func (c *rotatingClient) commit(ctx context.Context, fields map[string]any, r *Rotation, isVoid bool) error {
	last := c.change.stored
	next := *last
	next.Fields, next.Rotation, next.SecretsTime = fields, r, r.LastTime
	var err error
	if next.Secrets, err = newGeneration(); err != nil {
		return err
	}
	next.Formers = formers(last, c.hasWorked())
	next.setSecretFields(c.change.vendor)
	key, _, err := readKey(ctx, c.change.storage, keypairOf("", fields))
	if err != nil {
		return err
	}
	if next.SentTo, err = c.change.store.destinations(c.change.vendor, c.change.name, fields, key); err != nil {
		return err
	}
	if err := checkStays(next.SentTo, last.SentTo); err != nil {
		return err
	}
	if isVoid {
		next.Settings = next.Secrets
	}
	return c.put(ctx, &next)
}

// dueClients returns the names of the clients in use whose rotation has something to do.
func (st *Store) dueClients(ctx context.Context, s logical.Storage, now time.Time) ([]string, error) {
	var due []string
	err := st.eachInUse(ctx, s, func(name string, c *Client) error {
		if status := c.RotationStatus(now); status != nil && !status.DueTime.IsZero() && !now.Before(status.DueTime) {
			due = append(due, name)
		}
		return nil
	})
	slices.Sort(due)
	return due, err
}
