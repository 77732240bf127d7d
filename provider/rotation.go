package provider

import (
	"context"
	"time"
)

// A Rotator is a credential whose secret requests to the vendor may replace.
type Rotator interface {
	// Rotation returns how the secret is replaced. Its error, of kind Invalid, says why that is not
	// possible: the vendor has no API for it, or a field is missing.
	Rotation() (Rotation, error)
}

// A Rotation replaces a secret of a credential. Its methods call the vendor with the authorization of the
// credential that they belong to. Their errors are of type *Error and contain no secret.
type Rotation interface {
	// Rules returns the vendor's rules.
	Rules() RotationRules

	// Prepare sets n.Chosen, and may make n.ExpireTime somewhat earlier. It calls the vendor only to learn what is
	// there already, so that [Rotation.Discard] can tell what is ours.
	Prepare(ctx context.Context, n *NewSecret) error

	// Create makes the vendor issue, or accept, a new secret. It returns the fields that the credential has with
	// it. If it fails, the vendor may still have done so.
	Create(ctx context.Context, n NewSecret) (fields map[string]any, err error)

	// Expected returns the fields that Create will return; nil if they depend on the vendor's answer.
	Expected(n NewSecret) (map[string]any, error)

	// Prove asks the vendor whether it accepts the secret of the credential, if it can do so without an exchange of
	// the credential itself: where Rules().ProvesItself is set, and where another exchange authorizes the requests.
	Prove(ctx context.Context) error

	// Discard removes what an earlier Create has left at the vendor without an answer, as far as the vendor lists it
	// already. It never removes the present secret.
	Discard(ctx context.Context, n NewSecret) error

	// Remove removes a former secret. former are the fields that Rules().Replaces names. One that
	// is already removed is not an error, and one in the place of which the vendor has the present secret stays.
	Remove(ctx context.Context, former map[string]any) error
}

// A NewSecret is a secret that the vendor has not issued yet.
type NewSecret struct {
	// Name is the name under which the vendor lists it.
	Name string `json:"name"`

	// StartTime is when the engine asks for it.
	StartTime time.Time `json:"start_time"`

	// ExpireTime is when it shall expire, in whole seconds.
	ExpireTime time.Time `json:"expire_time,omitzero"`

	// Chosen is what the engine chose of it, such as a key. It is secret.
	Chosen map[string]string `json:"chosen,omitempty"`
}

// Secrets returns what is secret of what the engine chose.
func (n NewSecret) Secrets() []string {
	var secrets []string
	for _, name := range []string{ChosenSecret, ChosenPrivateKey} {
		if text := n.Chosen[name]; text != "" {
			secrets = append(secrets, text)
		}
	}
	return secrets
}

// The names of what is secret in [NewSecret.Chosen].
const (
	ChosenSecret     = "new_secret"
	ChosenPrivateKey = "new_private_key"
)

// RotationRules are a vendor's rules for the rotation of a secret.
type RotationRules struct {
	// Replaces are the fields that have another value after a rotation.
	Replaces []string

	// Account are the fields that say whose secret it is. With other values, secrets from before are not known.
	Account []string

	// EndsFormer is whether the vendor ends the former secret when it creates the new one.
	EndsFormer bool

	// IsRepeatable is whether Create yields the same fields, and does no harm, if it is repeated.
	IsRepeatable bool

	// ProvesItself is whether [Rotation.Prove] shows that the vendor accepts the secret, and not an exchange: one that
	// asks nobody, or that leaves something at the vendor.
	ProvesItself bool

	// CanProve is whether [Rotation.Prove] asks the vendor.
	CanProve bool

	// ListsByName is whether [Rotation.Discard] knows ours by what the engine chose, so that it may be repeated later.
	ListsByName bool

	// MaxLifetime is the longest lifetime of a new secret; zero if it need not expire.
	MaxLifetime time.Duration
}

// RotationOf returns how the secret of a credential is replaced; its error is that of [Rotator.Rotation].
func RotationOf(c Credential) (Rotation, error) {
	if rotator, is := c.(Rotator); is {
		return rotator.Rotation()
	}
	return nil, Errorf(Invalid, "the engine knows no API of the vendor that replaces this secret; write a new one to the credential instead")
}
