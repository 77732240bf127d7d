package definition

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"vault-plugin-secrets-tokenbroker/provider/exchange"
)

// A Rotation replaces a secret by another one that the vendor issues or accepts.
type Rotation struct {
	// Replaces are the fields that have other values afterwards. The rotation is for credentials that have those among them that
	// are secret.
	Replaces []string `json:"replaces"`

	// Needs are fields that must be set for it.
	Needs []string `json:"needs,omitempty"`

	// Authorize has values of fields for an exchange of the credential, whose access token authorizes the
	// requests as {rotation_token}; nil if they need none.
	Authorize map[string]any `json:"authorize,omitempty"`

	// Generate is what the engine generates: a secret, a private_key, or a certificate with its private key.
	Generate string `json:"generate,omitempty"`

	// Alternates is a field with two allowed values that a rotation swaps.
	Alternates string `json:"alternates,omitempty"`

	Create []RotationStep    `json:"create"`
	Set    map[string]string `json:"set"`
	Prove  *RotationStep     `json:"prove,omitempty"`
	Find   []Find            `json:"find,omitempty"`
	Remove []RotationStep    `json:"remove,omitempty"`

	// Gone are texts in the refusal to remove a secret that is removed already.
	Gone []string `json:"gone,omitempty"`

	// Assertion is the JWT that the requests have as {assertion}, signed with the present key.
	Assertion *Assertion `json:"assertion,omitempty"`

	// EndsFormer is whether the vendor ends the former secret when it creates the new one.
	EndsFormer bool `json:"ends_former,omitempty"`

	// MaxLifetime is the longest lifetime of a new secret.
	MaxLifetime Duration `json:"max_lifetime,omitempty"`
}

// A RotationStep is a request of a rotation, with what is kept of its answer. What is kept may be any JSON value.
type RotationStep struct {
	Request Request           `json:"request"`
	Keep    map[string]string `json:"keep,omitempty"`

	// KeepOptional is Keep for values that the answer need not have.
	KeepOptional map[string]string `json:"keep_optional,omitempty"`

	// MayFail is whether a refusal of the request does not matter.
	MayFail bool `json:"may_fail,omitempty"`
}

// A Find is a request that lists secrets, for one that an interrupted rotation has left.
type Find struct {
	Request Request `json:"request"`

	// List are the places where the array may be; none if it is the body.
	List Places `json:"list,omitempty"`

	// Where has the values of members of ours.
	Where map[string]string `json:"where,omitempty"`

	// Fields has the places of the values of fields that Remove uses.
	Fields map[string]string `json:"fields"`

	// Created is the place of when the vendor has created an element; "" if it does not say.
	Created string `json:"created,omitempty"`
}

// Places are JSON Pointers. In JSON, a single one is a string.
type Places []string

// UnmarshalJSON parses places.
func (p *Places) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*p = Places{one}
		return nil
	}
	return json.Unmarshal(text, (*[]string)(p))
}

// places returns the places where the array may be.
func (f Find) places() []string {
	if len(f.List) == 0 {
		return []string{""}
	}
	return f.List
}

// A rotation is a Rotation with its templates parsed.
type rotation struct {
	given     *Rotation
	create    []exchange.RotationStep
	set       map[string]exchange.Template
	prove     []exchange.RotationStep
	find      []exchange.Listing
	remove    []exchange.RotationStep
	uses      []string // names of fields
	isStated  bool     // whether set depends on an answer
	generates exchange.KeyKind
	authorize *exchange.Tree // nil if there is none
	assertion *assertion     // nil if there is none
}

// ofSecret are the placeholders of a new secret that requests may have.
var ofSecret = []string{
	"new_name", "new_secret", "new_expires", "new_expires_date", "new_lifetime",
	"new_public_key", "new_public_der", "new_jwk", "new_key_id", "new_certificate", "new_certificate_der",
}

// keyOfSecret is the one that only Set may have.
const keyOfSecret = "new_private_key"

// compileRotations checks the rotations and parses their templates. The fields that they use count as used by
// each grant that uses what they replace.
func (d *Definition) compileRotations() error {
	for i := range d.Rotations {
		place := pointerTo("rotations", fmt.Sprint(i))
		r, err := d.compileRotation(&d.Rotations[i])
		if err != nil {
			return at(place, err)
		}
		isUsed := false
		for _, g := range d.compiled {
			if !slices.ContainsFunc(d.secretsOf(r), func(name string) bool { return !slices.Contains(g.uses, name) }) {
				isUsed = true
				g.rotations = append(g.rotations, r)
			}
		}
		if !isUsed {
			return fmt.Errorf("%s/replaces: no grant uses these fields", place)
		}
		d.rotations = append(d.rotations, r)
	}
	return nil
}

// secretsOf returns the secret fields that a rotation replaces.
func (d *Definition) secretsOf(r *rotation) []string {
	return slices.DeleteFunc(slices.Clone(r.given.Replaces), func(name string) bool { return !d.fields[name].Secret })
}

func (d *Definition) compileRotation(given *Rotation) (*rotation, error) {
	r := &rotation{given: given, set: map[string]exchange.Template{}}
	if err := d.checkRotationFields(given); err != nil {
		return nil, err
	}
	switch given.Generate {
	case "private_key":
		r.generates = exchange.PrivateKey
	case "certificate":
		r.generates = exchange.Certificate
	}
	c := &compiler{d: d, g: &grant{given: &Grant{}}}
	more := c.placeholders(given)
	if err := c.authorize(r); err != nil {
		return nil, err
	}
	var err error
	if r.create, err = c.rotationSteps("/create", given.Create, more); err != nil {
		return nil, err
	}
	if err := c.set(r, more); err != nil {
		return nil, err
	}
	c.kept = nil
	if err := c.find(r, more); err != nil {
		return nil, err
	}
	c.kept = nil
	if given.Prove != nil {
		if r.prove, err = c.rotationSteps("/prove", []RotationStep{*given.Prove}, []string{"rotation_token"}); err != nil {
			return nil, errors.New(strings.Replace(err.Error(), "/prove/0", "/prove", 1))
		}
	}
	ofPresent := []string{"rotation_token"}
	for _, name := range given.Replaces {
		ofPresent = append(ofPresent, "current_"+name)
	}
	if r.remove, err = c.rotationSteps("/remove", given.Remove, ofPresent); err != nil {
		return nil, err
	}
	r.uses = c.g.uses
	for _, name := range given.Needs {
		if name != given.Alternates && !slices.Contains(r.uses, name) {
			return nil, fmt.Errorf("/needs: the rotation does not use %s", name)
		}
	}
	return r, nil
}

// placeholders returns the placeholders of a rotation's requests besides the fields.
func (c *compiler) placeholders(given *Rotation) []string {
	more := slices.Clone(ofSecret)
	if given.Alternates != "" {
		more = append(more, "new_"+given.Alternates)
	}
	return append(more, "rotation_token")
}

// hosts are the hosts of URLs in a definition, with their placeholders.
var hosts = regexp.MustCompile(`https://[^/"]*`)

// isInHost reports whether a field is part of the host of a URL.
func (d *Definition) isInHost(field string) bool {
	text, _ := json.Marshal(d) // it was parsed from JSON
	return slices.ContainsFunc(hosts.FindAllString(string(text), -1), func(host string) bool {
		return strings.Contains(host, "{"+field+"}") || strings.Contains(host, "{"+field+"|")
	})
}

func (d *Definition) checkRotationFields(given *Rotation) error {
	hasSecret := false
	for i, name := range given.Replaces {
		f := d.fields[name]
		if f == nil {
			return fmt.Errorf("/replaces/%d: no field named %s", i, name)
		}
		if f.Type != "" && !f.Secret && f.Type != "string" && f.Type != "certificate" {
			return fmt.Errorf("/replaces/%d: %s is a %s, which no answer sets", i, name, f.Type)
		}
		if d.isInHost(name) {
			return fmt.Errorf("/replaces/%d: %s is part of a URL's host, so that the secrets would be sent to another one", i, name)
		}
		if f.Default != "" {
			return fmt.Errorf("/replaces/%d: %s has a default, but only the operator knows what the vendor has", i, name)
		}
		hasSecret = hasSecret || f.Secret
	}
	if !hasSecret {
		return errors.New("/replaces: has no secret")
	}
	for i, name := range given.Needs {
		if d.fields[name] == nil {
			return fmt.Errorf("/needs/%d: no field named %s", i, name)
		}
	}
	for _, name := range sortedKeys(given.Authorize) {
		if d.fields[name] == nil && name != "grant_type" {
			return fmt.Errorf("/authorize/%s: no field of that name", name)
		}
	}
	if name := given.Alternates; name != "" {
		if f := d.fields[name]; f == nil || len(f.Allowed) != 2 || f.Secret {
			return errors.New("/alternates: must be a field with two allowed values")
		}
		if !slices.Contains(given.Replaces, name) {
			return errors.New("/alternates: must be among replaces")
		}
		if !slices.Contains(given.Needs, name) {
			return errors.New("/alternates: must be among needs")
		}
	}
	if given.Generate == "certificate" && given.MaxLifetime == 0 {
		return errors.New("/max_lifetime: must be set, as a certificate expires")
	}
	return nil
}

// authorize parses what authorizes the requests.
func (c *compiler) authorize(r *rotation) error {
	if r.given.Authorize != nil {
		tree, err := exchange.NewTree(r.given.Authorize)
		if err != nil {
			return at("/authorize", err)
		}
		if err := c.declared("/authorize", tree.Uses()); err != nil {
			return err
		}
		r.authorize = &tree
	}
	if r.given.Assertion == nil {
		return nil
	}
	if r.given.Assertion.Claims == nil {
		return errors.New("/assertion/claims: must be set")
	}
	a, err := c.compileAssertion(r.given.Assertion)
	if err != nil {
		return fmt.Errorf("/assertion%w", err)
	}
	r.assertion, c.proof = a, a
	return nil
}

// find parses the requests that list what the vendor has.
func (c *compiler) find(r *rotation, more []string) error {
	for i, given := range r.given.Find {
		l, err := c.listing(fmt.Sprintf("/find/%d", i), given, more)
		if err != nil {
			return err
		}
		r.find = append(r.find, l)
	}
	return nil
}

func (c *compiler) listing(place string, given Find, more []string) (exchange.Listing, error) {
	l := exchange.Listing{List: given.places(), Where: map[string]exchange.Template{}, Fields: given.Fields, Created: given.Created}
	steps, err := c.rotationSteps(place, []RotationStep{{Request: given.Request}}, more)
	if err != nil {
		return l, errors.New(strings.Replace(err.Error(), place+"/0", place, 1))
	}
	l.RotationStep = steps[0]
	for i, pointer := range given.List {
		err := checkPointer(pointer)
		switch {
		case err != nil && len(given.List) == 1:
			return l, at(place+"/list", err)
		case err != nil:
			return l, at(fmt.Sprintf("%s/list/%d", place, i), err)
		}
	}
	if err := checkPointer(given.Created); err != nil {
		return l, at(place+"/created", err)
	}
	for _, pointer := range sortedKeys(given.Where) {
		template, err := exchange.ParseTemplate(given.Where[pointer])
		if err == nil {
			err = errors.Join(checkPointer(pointer), c.declared("", template.Uses(), more...))
		}
		if err != nil {
			return l, at(place+"/where"+pointerTo(pointer), err)
		}
		l.Where[pointer] = template
	}
	for _, name := range sortedKeys(given.Fields) {
		if c.d.fields[name] == nil {
			return l, fmt.Errorf("%s/fields/%s: no field of that name", place, name)
		}
		if err := checkPointer(given.Fields[name]); err != nil {
			return l, at(place+"/fields/"+name, err)
		}
	}
	return l, nil
}

// rotationSteps parses requests of a rotation.
func (c *compiler) rotationSteps(place string, given []RotationStep, more []string) ([]exchange.RotationStep, error) {
	c.more = more
	defer func() { c.more = nil }()
	var steps []exchange.RotationStep
	for i, step := range given {
		place := fmt.Sprintf("%s/%d", place, i)
		r, err := c.request(&step.Request)
		if err != nil {
			return nil, at(place+"/request", err)
		}
		if err := c.keep(place+"/keep/", step.Keep); err != nil {
			return nil, err
		}
		if err := c.keep(place+"/keep_optional/", step.KeepOptional); err != nil {
			return nil, err
		}
		for _, name := range sortedKeys(step.KeepOptional) {
			if step.Keep[name] != "" {
				return nil, fmt.Errorf("%s/keep_optional/%s: keep has a value of that name", place, name)
			}
		}
		if slices.Contains(r.Names(), "assertion") && c.proof == nil {
			return nil, fmt.Errorf("%s/request: {assertion} needs the assertion of the rotation", place)
		}
		steps = append(steps, exchange.RotationStep{URL: r.url, Request: r.Request, Keep: step.Keep, KeepOptional: step.KeepOptional, MayFail: step.MayFail})
	}
	return steps, nil
}

// rotates reports whether a rotation of the grant uses a field.
func (g *grant) rotates(name string) bool {
	return slices.ContainsFunc(g.rotations, func(r *rotation) bool {
		return slices.Contains(r.uses, name) || slices.Contains(r.given.Replaces, name)
	})
}
