package definition

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/exchange"
)

// Rotation implements provider.Rotator.
func (c *credential) Rotation() (provider.Rotation, error) {
	if c.rotation == nil {
		return nil, c.noRotation
	}
	return c.rotation, nil
}

// addRotation sets how a secret of the credential is replaced, or why that is not possible.
func (o *opening) addRotation(c *credential) error {
	c.noRotation = provider.Errorf(provider.Invalid, "the engine knows no API of %s that replaces this secret; write a new one to the credential instead", o.d.Title)
	for _, r := range o.grant.rotations {
		if lacks := o.lacksFields(o.d.secretsOf(r)); len(lacks) > 0 {
			continue
		}
		if lacks := o.lacksFields(r.given.Needs); len(lacks) > 0 {
			name := lacks[0]
			c.noRotation = provider.Errorf(provider.Invalid, "%s: must be set for a rotation: %s", strings.Join(lacks, ", "), strings.TrimSuffix(o.d.fields[name].Description, "."))
			continue
		}
		rotation, err := o.openRotation(r, c.Client)
		if err != nil {
			return err
		}
		c.rotation = rotation
		return nil
	}
	return nil
}

// lacksFields returns those of the fields that are not set.
func (o *opening) lacksFields(names []string) []string {
	var lacks []string
	for _, name := range names {
		if o.values[name] == nil {
			lacks = append(lacks, name)
		}
	}
	return lacks
}

func (o *opening) openRotation(r *rotation, client *exchange.Client) (*exchange.Rotation, error) {
	opened := &exchange.Rotation{
		Client:     client,
		Key:        r.generates,
		Secret:     r.given.Generate == "secret",
		Alternates: r.given.Alternates,
		Creating:   r.create,
		New:        r.set,
		Listings:   r.find,
		Proving:    r.prove,
		Gone:       r.given.Gone,
		Removing:   r.remove,
		Vendor: provider.RotationRules{
			Replaces:     r.given.Replaces,
			EndsFormer:   r.given.EndsFormer,
			IsRepeatable: !r.isStated,
			ProvesItself: r.given.Prove != nil,
			CanProve:     r.given.Prove != nil || r.authorize != nil,
			ListsByName:  len(r.find) > 0 && !slices.ContainsFunc(r.find, func(l exchange.Listing) bool { return len(l.Where) == 0 }),
			MaxLifetime:  time.Duration(r.given.MaxLifetime),
		},
		SecretFields: o.d.secretsOf(r),
	}
	opened.Vendor.Account = o.d.accountOf(r, opened.Steps())
	if r.given.Alternates != "" {
		opened.Pair = o.d.fields[r.given.Alternates].Allowed
	}
	values := maps.Clone(o.values)
	for _, name := range r.given.Replaces {
		values[name] = name // a rotation changes it
	}
	for _, step := range opened.Steps() {
		url, err := exchange.FillURL(step.URL, values)
		if err != nil {
			return nil, err
		}
		if err := provider.CheckURL("rotations", url); err != nil {
			return nil, err
		}
		if !slices.Contains(opened.URLs, url) {
			opened.URLs = append(opened.URLs, url)
		}
	}
	if r.assertion != nil {
		if err := o.addProof(opened, r.assertion); err != nil {
			return nil, err
		}
	}
	if r.authorize == nil {
		return opened, nil
	}
	filled, err := r.authorize.Fill(o.values)
	if err != nil {
		return nil, err
	}
	given := maps.Clone(o.given)
	for name, value := range filled.(map[string]any) {
		raw, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		given[name] = raw
	}
	authorize := &opening{d: o.d, given: given, settings: o.settings, values: exchange.Values{}}
	authorized, err := authorize.open()
	if err != nil {
		return nil, err
	}
	opened.Authorize = authorized.Client
	return opened, nil
}

// addProof sets the assertion that the requests of a rotation have.
func (o *opening) addProof(r *exchange.Rotation, a *assertion) error {
	keyID := ""
	if o.d.fields["key_id"] != nil {
		keyID = cmp.Or(o.text("key_id"), o.settings.Thumbprint)
	}
	signer, err := provider.NewSigner(o.text("private_key"), "", keyID, a.algorithms...)
	if err != nil {
		return err
	}
	own := *r.Client
	own.Signer, own.Assertion = signer, a.Assertion
	own.Assertion.Headers = map[string]exchange.Template{}
	for name, template := range a.Headers {
		own.Assertion.Headers[name] = template
		// In a request that removes a secret, the fields are those of that secret, which is not the one that signs.
		text, err := template.Fill(o.values)
		if err != nil {
			return err
		}
		if text != "" {
			own.Assertion.Headers[name] = exchange.Literal(text)
		}
	}
	r.Client = &own
	return nil
}

// Destinations implements provider.Credential. Where the requests of a rotation have the ID of a secret in their URLs,
// the destination has the name of the field.
func (c *credential) Destinations() provider.Destinations {
	d := c.Client.Destinations()
	if c.rotation == nil {
		return d
	}
	d.URLs = append(d.URLs, without(c.rotation.URLs, d.URLs)...)
	for _, client := range []*exchange.Client{c.rotation.Client, c.rotation.Authorize} {
		if client == nil {
			continue
		}
		other := client.Destinations()
		d.URLs = append(d.URLs, without(other.URLs, d.URLs)...)
		d.Audiences = append(d.Audiences, without(other.Audiences, d.Audiences)...)
		d.Subjects = append(d.Subjects, without(other.Subjects, d.Subjects)...)
	}
	return d
}

// without returns the elements of a list that are not in another.
func without[T comparable](list, others []T) []T {
	return slices.DeleteFunc(slices.Clone(list), func(one T) bool { return slices.Contains(others, one) })
}

// accountOf returns the fields on which it depends which secrets the requests of a rotation remove: those in their URLs,
// and those in their bodies without what only authorizes them.
func (d *Definition) accountOf(r *rotation, steps []exchange.RotationStep) []string {
	var names []string
	for _, step := range steps {
		names = append(names, step.URL.Names()...)
		for _, name := range step.Request.Names() {
			if !slices.Contains(r.given.Needs, name) {
				names = append(names, name)
			}
		}
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		return d.fields[name] == nil || d.fields[name].Secret || slices.Contains(r.given.Replaces, name)
	})
	slices.Sort(names)
	return slices.Compact(names)
}

// RotatedSecrets returns the secret fields that the engine can replace at the vendor, sorted.
func (d *Definition) RotatedSecrets() []string {
	var names []string
	for _, r := range d.rotations {
		names = append(names, d.secretsOf(r)...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
