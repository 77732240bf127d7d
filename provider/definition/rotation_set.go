package definition

import (
	"errors"
	"fmt"
	"slices"

	"vault-plugin-secrets-tokenbroker/provider/exchange"
)

// set parses the new values of fields.
func (c *compiler) set(r *rotation, more []string) error {
	given := r.given
	kept := slices.Clone(c.kept)
	for _, name := range sortedKeys(given.Set) {
		template, err := exchange.ParseTemplate(given.Set[name])
		if err == nil && !slices.Contains(given.Replaces, name) && name != "expires" {
			err = errors.New("is not among replaces")
		}
		if err == nil {
			err = c.declared("", template.Uses(), append(slices.Clone(more), keyOfSecret)...)
		}
		if err != nil {
			return at("/set/"+name, err)
		}
		r.set[name] = template
		r.isStated = r.isStated || slices.ContainsFunc(template.Names(), func(used string) bool { return slices.Contains(kept, used) })
	}
	for i, name := range given.Replaces {
		if given.Set[name] == "" {
			return fmt.Errorf("/replaces/%d: set has no value for %s", i, name)
		}
	}
	return c.checkSet(r, kept)
}

// checkSet checks that a field that is not secret gets no secret, and that each field gets a value.
func (c *compiler) checkSet(r *rotation, kept []string) error {
	secrets := []string{keyOfSecret, "new_secret", "rotation_token", "assertion"}
	for _, name := range c.d.secretsOf(r) {
		for _, used := range r.set[name].Names() {
			if slices.Contains(kept, used) {
				secrets = append(secrets, used)
			}
		}
	}
	for _, name := range sortedKeys(r.set) {
		f := c.d.fields[name] // nil for expires
		for _, use := range r.set[name].Uses() {
			used := c.d.fields[use.Name]
			isSecret := used != nil && used.Secret || slices.Contains(secrets, use.Name)
			switch {
			case (f == nil || !f.Secret) && isSecret && use.Function != "public_sha256":
				return fmt.Errorf("/set/%s: %s is secret, and a read of the credential would show it", name, use)
			case f != nil && r.given.isOptional(use.Name):
				return fmt.Errorf("/set/%s: %s is optional, and the field needs a value", name, use)
			}
		}
	}
	return nil
}

// isOptional reports whether a value is kept of an answer that need not have it.
func (r *Rotation) isOptional(name string) bool {
	return slices.ContainsFunc(r.Create, func(step RotationStep) bool { return step.KeepOptional[name] != "" })
}
