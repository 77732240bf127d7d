package exchange

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

// keep adds what is kept of the answer to a request to the values.
func (r *Rotation) keep(ctx context.Context, step RotationStep, body any, reply *provider.Reply, values Values) error {
	var missing []string
	for _, places := range []map[string]string{step.Keep, step.KeepOptional} {
		for name, pointer := range places {
			kept := provider.Member(body, pointer)
			if len(kept) == 0 {
				if step.Keep[name] != "" {
					missing = append(missing, pointer)
				}
				continue
			}
			var value any
			decoder := json.NewDecoder(bytes.NewReader(kept))
			decoder.UseNumber()
			if err := decoder.Decode(&value); err != nil {
				return reply.NotJSON()
			}
			values[name] = value
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return provider.Masked(ctx, reply.NoMember(slices.Min(missing)), r.secrets(values)...)
}

// newFields returns the fields of a credential with a new secret.
func (r *Rotation) newFields(values Values) (map[string]any, error) {
	fields := map[string]any{}
	for name, template := range r.New {
		text, isSet, err := template.fill(values, verbatim)
		if err != nil {
			return nil, err
		}
		if isSet {
			fields[name] = text
		}
	}
	if stated, is := fields["expires"].(string); is {
		delete(fields, "expires") // unless an operator can act on it
		raw, _ := json.Marshal(stated)
		for _, unit := range []Unit{RFC3339, Date} {
			if _, at := unit.read(raw); !at.IsZero() {
				fields["expires"] = at.UTC().Format(time.RFC3339)
			}
		}
	}
	if err := r.checkReadable(fields, values); err != nil {
		return nil, err
	}
	return fields, nil
}

// checkReadable returns an error if a new value of a field that is not secret contains a secret.
func (r *Rotation) checkReadable(fields map[string]any, values Values) error {
	secrets := slices.Concat(r.Client.Secrets, textsOf(values, r.secretNames()))
	for _, name := range r.SecretFields {
		secrets = append(secrets, textOf(fields[name], nil))
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if !slices.Contains(r.SecretFields, name) && provider.ContainsSecret(textOf(fields[name], nil), secrets) {
			return provider.Errorf(provider.InvalidResponse, "%s: its new value contains a secret, and a read of the credential would show it", name)
		}
	}
	return nil
}

// secrets returns the values that no error may quote. A text that is kept for further requests only, such as that of a
// session, is one of them.
func (r *Rotation) secrets(values Values) []string {
	names := r.secretNames()
	for _, step := range r.Steps() {
		for _, name := range slices.Concat(slices.Collect(maps.Keys(step.Keep)), slices.Collect(maps.Keys(step.KeepOptional))) {
			if _, isText := values[name].(string); isText && !r.sets(name) {
				names = append(names, name)
			}
		}
	}
	return textsOf(values, names)
}

// sets reports whether the new value of a field has a placeholder.
func (r *Rotation) sets(name string) bool {
	for _, template := range r.New {
		if slices.Contains(template.Names(), name) {
			return true
		}
	}
	return false
}

// secretNames returns the names of the placeholders that are secret: those of secret fields, what authorizes the
// requests, what the engine chose, and what is kept for a secret field.
func (r *Rotation) secretNames() []string {
	names := []string{"rotation_token", provider.ChosenSecret, provider.ChosenPrivateKey}
	for _, field := range r.SecretFields {
		names = append(names, field, "current_"+field)
		for _, step := range r.Creating {
			for name := range step.Keep {
				if slices.Contains(r.New[field].Names(), name) {
					names = append(names, name)
				}
			}
		}
	}
	return names
}

// textsOf returns the texts of values.
func textsOf(values Values, names []string) []string {
	var texts []string
	for _, name := range names {
		texts = append(texts, textOf(values[name], nil))
	}
	return texts
}
