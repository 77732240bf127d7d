package tokenbroker

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/credential"
	"vault-plugin-secrets-tokenbroker/provider"
)

// operationOf returns the operation that Vault checked a request's policy for.
func operationOf(req *logical.Request) credential.Operation {
	switch req.Operation {
	case logical.CreateOperation:
		return credential.Create
	case logical.PatchOperation:
		return credential.Patch
	default:
		return credential.Update
	}
}

// givenFields returns the stored fields that a request gives, with the types that storage uses. An
// empty value, which clears a field, becomes nil.
func givenFields(d *framework.FieldData) (map[string]any, error) {
	fields := map[string]any{}
	for name, raw := range d.Raw {
		if d.Schema[name] == nil || !isStored(name) {
			continue
		}
		fields[name] = nil
		if object, isObject := raw.(map[string]any); isObject { // FieldData would drop the nulls of a patch
			if len(object) > 0 {
				fields[name] = object
			}
			continue
		}
		if raw == nil || raw == "" {
			continue
		}
		value, _, err := d.GetOkErr(name)
		if err != nil {
			return nil, provider.Errorf(provider.Invalid, "%s: invalid value", name)
		}
		fields[name] = storedValue(name, value)
	}
	return fields, nil
}

// storedValue returns a value with the type that storage uses; nil if it is empty.
func storedValue(field string, value any) any {
	switch value := value.(type) {
	case string:
		if text := strings.TrimSpace(value); text != "" {
			return text
		}
	case bool:
		return value
	case int:
		return json.Number(strconv.Itoa(value))
	case []string:
		return storedList(field, value)
	case map[string]string:
		if len(value) == 0 {
			return nil
		}
		object := map[string]any{}
		for name, text := range value {
			object[name] = text
		}
		return object
	}
	return nil
}

// storedList returns a list without empty and duplicate elements; nil if the result is empty. It
// splits scopes at spaces, as RFC 6749 §3.3 separates them: "a b,c" is a, b and c.
func storedList(field string, texts []string) any {
	var list []any
	for _, text := range texts {
		words := []string{strings.TrimSpace(text)}
		if field == "scope" {
			words = strings.Fields(text)
		}
		for _, word := range words {
			if word != "" && !slices.Contains(list, any(word)) {
				list = append(list, word)
			}
		}
	}
	if len(list) == 0 {
		return nil
	}
	return list
}

// isStored reports whether a field is part of the stored entry.
func isStored(field string) bool {
	return field != "name" && field != "verify" && field != "forget_leases"
}
