package tokenbroker

import (
	"encoding/json"
	"fmt"
	"strings"
)

// checkPairs refuses what cannot be name=value pairs, in the words of whoever wrote it. The
// framework takes a map, a pair, and a list of pairs. A value may be a secret that was
// pasted into the wrong field, and is not quoted.
func checkPairs(field string, value any) error {
	switch value := value.(type) {
	case string:
		return checkPair(field, value)
	case []any:
		for _, item := range value {
			pair, isText := item.(string)
			if !isText {
				return fmt.Errorf("%s: must be name=value pairs; give %s=name=value, once for each, or a JSON object", field, field)
			}
			if err := checkPair(field, pair); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkPair(field, pair string) error {
	name, _, isPair := strings.Cut(pair, "=")
	switch {
	case pair == "":
		return nil // which clears the field
	case strings.HasPrefix(strings.TrimSpace(pair), "{"):
		return fmt.Errorf("%s: must not be JSON as text; give %s, or send the whole request as JSON (vault write <path> @file.json)", field, pairsOf(field, pair))
	case !isPair || name == "":
		return fmt.Errorf("%s: must be name=value pairs; give %s=name=value, once for each", field, field)
	}
	return nil
}

// pairsOf shows how to write a JSON object as pairs.
func pairsOf(field, object string) string {
	var values map[string]any
	if json.Unmarshal([]byte(object), &values) != nil || len(values) == 0 {
		return field + "=name=value, once for each"
	}
	var pairs []string
	for _, name := range sortedKeys(values) {
		pairs = append(pairs, fmt.Sprintf("%s=%s=...", field, name))
	}
	return strings.Join(pairs, " ")
}
