package tokenbroker

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/provider"
)

// checkPairs refuses what is not a map of strings, as an object or as name=value, and a
// name that is given twice: only one of its values would count. A value may be a secret
// that was pasted into the wrong field, and is not quoted.
func checkPairs(field string, op logical.Operation, value any) error {
	switch pairs := value.(type) {
	case map[string]string:
		return nil
	case map[string]any:
		for _, name := range sortedKeys(pairs) {
			_, isString := pairs[name].(string)
			isRemoval := pairs[name] == nil && op == logical.PatchOperation
			if !isString && !isRemoval {
				return fmt.Errorf("%s: the value of %s must be a string", field, provider.Quote(name))
			}
		}
		return nil
	}
	list, isList := stringsOf(value)
	if !isList {
		return fmt.Errorf("%s: must be name=value pairs; give %s=name=value, once for each, or a JSON object", field, field)
	}
	if strings.Join(list, "") == "" {
		return nil // which clears the field
	}
	seen := map[string]bool{}
	for _, pair := range list {
		name, err := checkPair(field, pair)
		switch {
		case err != nil:
			return err
		case seen[name]:
			return fmt.Errorf("%s: %s is given twice; a name has one value", field, provider.Quote(name))
		}
		seen[name] = true
	}
	return nil
}

// checkPair returns the name of a pair.
func checkPair(field, pair string) (string, error) {
	name, _, isPair := strings.Cut(pair, "=")
	switch {
	case strings.HasPrefix(strings.TrimSpace(pair), "{"):
		return "", fmt.Errorf("%s: must not be JSON as text; give %s, or send the whole request as JSON (vault write <path> @file.json)", field, pairsOf(field, pair))
	case !isPair || name == "":
		return "", fmt.Errorf("%s: must be name=value pairs; give %s=name=value, once for each", field, field)
	}
	return name, nil
}

// pairsOf shows how to write a JSON object as pairs.
func pairsOf(field, object string) string {
	var values map[string]any
	if json.Unmarshal([]byte(object), &values) != nil || len(values) == 0 {
		return field + "=name=value, once for each"
	}
	var pairs []string
	for _, name := range sortedKeys(values) {
		pairs = append(pairs, fmt.Sprintf("%s=%s=...", field, provider.List([]string{name})))
	}
	return strings.Join(pairs, " ")
}
