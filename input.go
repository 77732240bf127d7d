package tokenbroker

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hashicorp/go-secure-stdlib/parseutil"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/credential"
	"vault-plugin-secrets-tokenbroker/provider"
)

// checkPathName refuses a path with a name that is too long.
func checkPathName(path string) error {
	for part := range strings.SplitSeq(path, "/") {
		if len(part) > maxName {
			return fmt.Errorf("name: has %d characters; a name has at most %d", len(part), maxName)
		}
	}
	return nil
}

// withoutEmptyMaps has null stand for the empty string of a map, which clears it: the
// framework takes no empty string for a map.
func withoutEmptyMaps(fields map[string]*framework.FieldSchema, input map[string]any) map[string]any {
	input = maps.Clone(input)
	for name, value := range input {
		if list, isList := stringsOf(value); fields[name].Type == framework.TypeKVPairs && isList && strings.Join(list, "") == "" {
			input[name] = nil
		}
	}
	return input
}

// checkInput refuses what is not of a field's type: the framework would turn it into
// something else, and say nothing.
func checkInput(fields map[string]*framework.FieldSchema, op logical.Operation, input map[string]any) error {
	for _, name := range sortedKeys(input) {
		schema, known := fields[name]
		if !known {
			return fmt.Errorf("%s: is no field of this path, which has %s", shownField(name), strings.Join(sortedKeys(fields), ", "))
		}
		if err := checkValue(name, schema.Type, op, input[name]); err != nil {
			return err
		}
		if slices.Contains(nameFields, name) {
			if err := checkSpace(name, input[name]); err != nil {
				return err
			}
			if err := checkNames(name, input[name]); err != nil {
				return err
			}
		}
	}
	return nil
}

// fieldName is what looks like a field's name.
var fieldName = regexp.MustCompile(`^[a-z_]{1,40}$`)

// shownField is the name of an unknown field, which may be a secret in the wrong place.
func shownField(name string) string {
	if fieldName.MatchString(name) {
		return name
	}
	return fmt.Sprintf("a field whose name is not shown (%d characters)", utf8.RuneCountInString(name))
}

func checkValue(name string, t framework.FieldType, op logical.Operation, value any) error {
	if value == nil {
		return nil
	}
	switch t {
	case framework.TypeString, framework.TypeNameString:
		if _, isString := value.(string); !isString {
			return fmt.Errorf("%s: must be a string", name)
		}
	case framework.TypeBool:
		return checkBool(name, value)
	case framework.TypeInt:
		return checkInt(name, value)
	case framework.TypeDurationSecond:
		return checkDuration(name, value)
	case framework.TypeCommaStringSlice:
		return checkList(name, value)
	case framework.TypeKVPairs:
		return checkPairs(name, op, value)
	}
	return nil
}

// checkList refuses a line break in a list: that is another file than was meant, perhaps
// a secret, of which errors would quote the words.
func checkList(name string, value any) error {
	list, isList := stringsOf(value)
	if !isList {
		return fmt.Errorf("%s: must be a list of strings, or a string with commas between them", name)
	}
	for _, text := range list {
		if strings.ContainsAny(strings.TrimSpace(text), "\r\n") {
			return fmt.Errorf("%s: holds a line break; give a string with commas, or a list of strings", name)
		}
	}
	return nil
}

// stringsOf is a value that is one string or a list of them.
func stringsOf(value any) ([]string, bool) {
	switch value := value.(type) {
	case string:
		return []string{value}, true
	case []string:
		return value, true
	case []any:
		list := make([]string, len(value))
		for i, element := range value {
			text, isString := element.(string)
			if !isString {
				return nil, false
			}
			list[i] = text
		}
		return list, true
	}
	return nil, false
}

// nameFields are the fields that hold names of credentials or key pairs.
var nameFields = []string{"config", "keypair", "allowed_configs"}

// maxName is the longest name of a credential, a role or a key pair, in bytes.
const maxName = 128

// isName is what the paths take as a name.
var isName = regexp.MustCompile("^" + framework.GenericNameRegex("name") + "$")

// checkNames refuses what cannot be a name before it becomes part of a storage key.
func checkNames(field string, value any) error {
	list, _ := stringsOf(value)
	for _, text := range list {
		for name := range strings.SplitSeq(text, ",") {
			name = strings.TrimSpace(name)
			switch {
			case name == "":
			case len(name) > maxName:
				return fmt.Errorf("%s: %s is over %d characters, which no name has", field, provider.Quote(name), maxName)
			case !isName.MatchString(name):
				return fmt.Errorf("%s: %s is not a name; give the name only, without the path before it: letters, digits, dots, dashes and underscores", field, provider.Quote(name))
			}
		}
	}
	return nil
}

// checkSpace refuses white space around a value that a policy may pin. Vault compares what
// was sent with the policy's parameters, so that a trimmed value is not the one it checked.
func checkSpace(field string, value any) error {
	list, _ := stringsOf(value)
	for _, text := range list {
		if trimmed := strings.TrimSpace(text); trimmed != "" && trimmed != text {
			return fmt.Errorf("%s: has white space around it; give the value without", field)
		}
	}
	return nil
}

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

func checkBool(name string, value any) error {
	switch value := value.(type) {
	case bool:
		return nil
	case string:
		if _, err := strconv.ParseBool(value); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%s: must be true or false", name)
}

// checkInt refuses what is not a number, and numbers that would come out of storage as
// others, or not at all.
func checkInt(name string, value any) error {
	var n float64
	isNumber := true
	switch value := value.(type) {
	case float64:
		n = value
	case int:
		n = float64(value)
	case string:
		if value == "" {
			return nil
		}
		i, err := strconv.ParseInt(value, 0, 64)
		n, isNumber = float64(i), err == nil
	default:
		isNumber = false
	}
	if !isNumber || n != math.Trunc(n) || math.Abs(n) > math.MaxInt32 {
		return fmt.Errorf("%s: must be a whole number, of %d at most", name, math.MaxInt32)
	}
	return nil
}

func checkDuration(name string, value any) error {
	if n, ok := value.(float64); ok && n != float64(int64(n)) {
		return fmt.Errorf("%s: must be a whole number of seconds", name)
	}
	d, err := parseutil.ParseDurationSecond(value)
	switch {
	case err != nil:
		return fmt.Errorf("%s: is no duration; give seconds, or a number with a unit such as 30s, 24h or 7d, ten years at the most", name)
	case d < 0:
		return fmt.Errorf("%s: must not be negative", name)
	case d > credential.MaxDuration:
		return fmt.Errorf("%s: must not be over ten years", name)
	case d%time.Second != 0:
		return fmt.Errorf("%s: must be a whole number of seconds", name)
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// readableFields are those of a credential that come out again.
func readableFields(fields map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	readable := map[string]*framework.FieldSchema{
		"secrets_set": {
			Type:        framework.TypeStringSlice,
			Description: "The names of the secret fields that are stored.",
			Required:    true,
		},
	}
	for name, schema := range fields {
		if !credential.IsSecret(schema) && isStored(name) {
			readable[name] = schema
		}
	}
	return readable
}
