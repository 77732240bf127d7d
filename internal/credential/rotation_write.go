package credential

import (
	"reflect"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/provider"
)

// A secretWrite is an operator's write of the fields of which a rotation replaces some.
type secretWrite struct {
	schemas   map[string]*framework.FieldSchema
	rules     provider.RotationRules // of what is stored; zero if that does not rotate
	old, next map[string]any

	// isOtherKey is whether another key pair is used from now on.
	isOtherKey bool
}

// rulesOf returns the rules of the rotation of a credential; zero if it is nil or does not rotate.
func rulesOf(opened *broker.Credential) provider.RotationRules {
	if opened == nil {
		return provider.RotationRules{}
	}
	rotation, err := provider.RotationOf(opened.Vendor)
	if err != nil {
		return provider.RotationRules{}
	}
	return rotation.Rules()
}

// secretWrite returns what the revision does to the secret of a stored credential.
func (r revision) secretWrite(stored *storedCredential, opened *broker.Credential) secretWrite {
	used := r.keypairName()
	return secretWrite{
		schemas: FieldSchemas(r.vendor), rules: rulesOf(opened), old: stored.Fields, next: r.fields,
		isOtherKey: used != "" && used != stored.keypairName(),
	}
}

// replaces reports whether the secret that rotates is another one after the write.
func (w secretWrite) replaces() bool {
	return w.isOtherKey || slices.ContainsFunc(sortedKeys(w.schemas), func(field string) bool {
		isRotated := len(w.rules.Replaces) == 0 || slices.Contains(w.rules.Replaces, field)
		return isRotated && IsSecret(w.schemas[field]) && w.next[field] != nil && !w.isSame(field)
	})
}

func (w secretWrite) isSame(field string) bool { return reflect.DeepEqual(w.old[field], w.next[field]) }

// check returns an error of kind Invalid if the write gives a secret without what says which it is: a rotation would
// remove another secret by the ID of the former one.
func (w secretWrite) check(given map[string]any) error {
	if !w.replaces() {
		return nil
	}
	var secrets, missing []string
	for _, field := range w.rules.Replaces {
		_, isGiven := given[field]
		switch {
		case IsSecret(w.schemas[field]):
			secrets = append(secrets, field)
		case !isGiven && w.old[field] != nil:
			missing = append(missing, field)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return provider.Errorf(provider.Invalid, "%s: must be given together with %s, as it says which secret that is at the vendor", strings.Join(missing, ", "), strings.Join(secrets, ", "))
}

// after returns the state of a rotation after the write; nil if the secrets that it knows are of another account at
// the vendor.
func (w secretWrite) after(r *Rotation) *Rotation {
	if r == nil || slices.ContainsFunc(w.rules.Account, func(field string) bool { return !w.isSame(field) }) {
		return nil
	}
	next := *r
	next.Formers = slices.DeleteFunc(slices.Clone(r.Formers), w.isPresent)
	if !w.replaces() {
		return &next
	}
	next = *next.succeeded() // what failed may work with the new secret
	if next.Pending != nil {
		pending := *next.Pending
		pending.IsOvertaken, next.Pending = true, &pending
	}
	return &next
}

// isPresent reports whether the write makes a former secret the present one again.
func (w secretWrite) isPresent(former FormerSecret) bool {
	return slices.ContainsFunc(sortedKeys(former.Fields), func(field string) bool {
		return IsSecret(w.schemas[field]) && former.Fields[field] != nil && reflect.DeepEqual(former.Fields[field], w.next[field])
	})
}

// logForgotten logs the secrets that nobody removes at the vendor, as a write has another account there.
func (st *Store) logForgotten(path string, schemas map[string]*framework.FieldSchema, last, next *Rotation) {
	if next != nil {
		return
	}
	if left := last.leftovers(schemas); len(left) > 0 {
		st.Logger().Warn("a rotation has left secrets at the vendor, and what is written is of another account; remove them there", "path", path, "secrets", left)
	}
}
