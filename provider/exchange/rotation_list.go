package exchange

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"maps"
	"math/big"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

// A Listing is a request whose answer has what the vendor lists.
type Listing struct {
	RotationStep

	// List are the JSON Pointers of where the array may be; "" is the body. Where has the values by which
	// the members of an element show that it is ours, by JSON Pointer. Unless one of them is unique, ours was also not
	// there before.
	List  []string
	Where map[string]Template

	// Fields has the JSON Pointers of the values of fields in an element, and Created that of when the vendor has
	// created it, in RFC 3339; "" if it does not say.
	Fields  map[string]string
	Created string
}

// unique are the placeholders of what no other secret has.
var unique = []string{"new_name", "new_secret", "new_key_id", "new_public_key", "new_public_der", "new_certificate_der"}

// needsKnown reports whether ours must be told from what was listed before it was created.
func (l Listing) needsKnown() bool {
	for _, template := range l.Where {
		if slices.ContainsFunc(template.Names(), func(name string) bool { return slices.Contains(unique, name) }) {
			return false
		}
	}
	return true
}

// spreadExpiry makes the expiry up to an hour earlier where the vendor lists ours only by that, so that it is hardly
// that of another secret that is created in the same second.
func (r *Rotation) spreadExpiry(n *provider.NewSecret) error {
	isByExpiry := func(l Listing) bool {
		return slices.ContainsFunc(slices.Collect(maps.Values(l.Where)), func(t Template) bool { return slices.Contains(t.Names(), "new_expires") })
	}
	widest := int64(min(time.Until(n.ExpireTime)/100, time.Hour) / time.Second)
	if widest <= 0 || !slices.ContainsFunc(r.Listings, isByExpiry) {
		return nil
	}
	earlier, err := rand.Int(rand.Reader, big.NewInt(widest))
	if err != nil {
		return err
	}
	n.ExpireTime = n.ExpireTime.Add(-time.Duration(earlier.Int64()) * time.Second)
	return nil
}

// known is the name of the chosen value that has what was listed before a secret was created.
const known = "known"

// Discard implements provider.Rotation.
func (r *Rotation) Discard(ctx context.Context, n provider.NewSecret) error {
	if len(r.Listings) == 0 {
		return nil
	}
	values, ctx, err := r.begin(ctx, n)
	if err != nil {
		return err
	}
	before := strings.Split(n.Chosen[known], "\n")
	for _, l := range r.Listings {
		listed, err := r.list(ctx, l, values, n.StartTime)
		if err != nil {
			return err
		}
		ours := slices.DeleteFunc(listed, func(fields map[string]any) bool {
			return l.needsKnown() && (slices.Contains(before, identity(fields)) || r.isPresent(merged(values, fields)))
		})
		if l.needsKnown() && len(ours) > 1 { // at most one is, and the others are somebody's
			return provider.Errorf(provider.Rejected, "each of %d new secrets may be the one that has no answer; remove there what is not in use: %.300s", len(ours), ours)
		}
		for _, fields := range ours {
			if err := r.remove(ctx, values, fields); err != nil {
				return err
			}
		}
	}
	return nil
}

// merged returns values with others in their place.
func merged(values Values, others map[string]any) Values {
	all := maps.Clone(values)
	maps.Copy(all, others)
	return all
}

// identity returns what tells an element of a list from others.
func identity(fields map[string]any) string {
	text, _ := json.Marshal(fields) // of texts
	return string(text)
}

// list returns the fields of the elements that the vendor lists and that Where describes. Those that it has not created
// about when the engine asked for one are left out, unless started is zero.
func (r *Rotation) list(ctx context.Context, l Listing, values Values, started time.Time) ([]map[string]any, error) {
	body, reply, err := r.send(ctx, l.RotationStep, values)
	if err != nil {
		return nil, err
	}
	elements, isList := l.elements(body)
	if !isList {
		return nil, reply.NoMember(strings.Join(l.List, " or "))
	}
	var found []map[string]any
	for _, element := range elements {
		isOurs, err := l.isOurs(element, values)
		if err != nil {
			return nil, err
		}
		fields := map[string]any{}
		for name, pointer := range l.Fields {
			if value := shown(provider.Member(element, pointer)); value != "" {
				fields[name] = value
			}
		}
		isOurs = isOurs && (started.IsZero() || l.isCreatedAbout(element, started))
		if isOurs && len(fields) == len(l.Fields) {
			found = append(found, fields)
		}
	}
	return found, nil
}

// isCreatedAbout reports whether the vendor has created an element about at a time, as far as it says when.
func (l Listing) isCreatedAbout(element any, at time.Time) bool {
	if l.Created == "" {
		return true
	}
	_, created := RFC3339.read(provider.Member(element, l.Created))
	return created.IsZero() || created.Sub(at).Abs() < asking
}

// asking is how long after the engine has asked for a secret, by the vendor's clock, it may have been created.
const asking = 15 * time.Minute

// elements returns the array in an answer, from the first place that has one. null is an empty array.
func (l Listing) elements(body any) (elements []any, isThere bool) {
	isNull := false
	for _, pointer := range l.List {
		found := body
		if pointer != "" {
			member := provider.Member(body, pointer)
			isNull = isNull || string(member) == "null"
			found = nil
			decoder := json.NewDecoder(bytes.NewReader(member))
			decoder.UseNumber()
			_ = decoder.Decode(&found) // what is missing is not an array
		}
		if elements, isThere = found.([]any); isThere {
			return elements, true
		}
	}
	return nil, isNull
}

func (l Listing) isOurs(element any, values Values) (bool, error) {
	for pointer, template := range l.Where {
		want, isSet, err := template.fill(values, verbatim)
		if err != nil || !isSet || shown(provider.Member(element, pointer)) != want {
			return false, err
		}
	}
	return true, nil
}
