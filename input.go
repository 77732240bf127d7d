package tokenbroker

import (
	"encoding/json"
	"errors"
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

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/credential"
	"vault-plugin-secrets-tokenbroker/provider"
)

// checkPathName returns an error if a part of a path is longer than a name may be, or holds "..",
// which storage takes for a relative path.
func checkPathName(path string) error {
	if strings.Contains(path, "..") {
		return errors.New(`name: must not contain ".."`)
	}
	for part := range strings.SplitSeq(path, "/") {
		if len(part) > apipath.MaxName {
			return fmt.Errorf("name: too long: %d bytes (at most %d)", len(part), apipath.MaxName)
		}
	}
	return nil
}

// withoutEmptyMaps returns input with null in place of an empty string for a map. An empty string
// clears the field, but the framework does not accept one for a map.
func withoutEmptyMaps(fields map[string]*framework.FieldSchema, input map[string]any) map[string]any {
	input = maps.Clone(input)
	for name, value := range input {
		if list, isList := stringsOf(value); fields[name].Type == framework.TypeKVPairs && isList && strings.Join(list, "") == "" {
			input[name] = nil
		}
	}
	return input
}

// checkInput returns an error for an unknown field or a value of the wrong type. The framework would
// ignore the first and silently convert the second.
func checkInput(fields map[string]*framework.FieldSchema, op logical.Operation, input map[string]any) error {
	for _, name := range sortedKeys(input) {
		schema, known := fields[name]
		if !known {
			return unknownField(name, sortedKeys(fields))
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

var (
	// fieldName matches what looks like the name of a field.
	fieldName = regexp.MustCompile(`^[a-z_]{1,40}$`)

	// optionName matches what looks like an option of the vault command.
	optionName = regexp.MustCompile(`^-[a-z-]{1,40}$`)
)

// unknownField returns the error for a field that is not allowed.
func unknownField(name string, allowed []string) error {
	if optionName.MatchString(name) {
		return fmt.Errorf("%s is an option of the vault command; give it before the path", name)
	}
	text := "unknown field " + shownField(name)
	if fix := fieldFix(name, allowed); fix != "" {
		text += "; " + fix
	}
	return fmt.Errorf("%s (allowed: %s)", text, strings.Join(allowed, ", "))
}

// fieldFix returns what to use in place of an unknown field; "" if nothing is known. The field may
// be one of another path: only a role has ttl, and a read takes its scope and ttl from a role.
func fieldFix(name string, allowed []string) string {
	isOfRole := name == "scope" || name == "ttl"
	switch {
	case name == "ttl" && slices.Contains(allowed, "default_ttl"):
		return "did you mean default_ttl or max_ttl?"
	case isOfRole && slices.Contains(allowed, "min_ttl"): // a read of a token
		return fmt.Sprintf("write roles/<name> with this %s, and read that name", name)
	}
	if near := nearestField(name, allowed); near != "" {
		return "did you mean " + near + "?"
	}
	return ""
}

// nearestField returns the field that name is probably a misspelling of; "" if there is none.
func nearestField(name string, allowed []string) string {
	name = strings.ToLower(strings.ReplaceAll(name, "-", "_"))
	if !fieldName.MatchString(name) {
		return ""
	}
	edits := max(1, min(len(name)/4, mostEdits)) // fewer than for a path: a user of max_ttl does not mean min_ttl
	return nearest(name, allowed, edits)
}

// shownField returns the quoted name of an unknown field. It hides a name that does not look like a
// field, which may be a misplaced secret.
func shownField(name string) string {
	if fieldName.MatchString(name) {
		return strconv.Quote(name)
	}
	return fmt.Sprintf("[name of %d characters, not shown]", utf8.RuneCountInString(name))
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
	case framework.TypeFloat:
		return checkNumber(name, value)
	case framework.TypeDurationSecond:
		return checkDuration(name, value)
	case framework.TypeCommaStringSlice:
		return checkList(name, value)
	case framework.TypeKVPairs:
		return checkPairs(name, op, value)
	}
	return nil
}

// checkList returns an error for a value that is not a list of strings. It rejects line breaks, as
// these come from a wrong file, perhaps a secret, and later errors quote list elements.
func checkList(name string, value any) error {
	list, isList := stringsOf(value)
	if !isList {
		return fmt.Errorf("%s: must be a list of strings or a comma-separated string", name)
	}
	for _, text := range list {
		if strings.ContainsAny(strings.TrimSpace(text), "\r\n") {
			return fmt.Errorf("%s: must not contain a line break; use a comma-separated string or a list of strings", name)
		}
	}
	return nil
}

// stringsOf returns the strings of a value that is a string or a list of strings.
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

// nameFields are the fields that hold the name of a credential, client or key pair, or a list of them.
var nameFields = []string{"config", "client", "keypair", "allowed_configs", "allowed_clients"}

// checkNames returns an error for an invalid name, before it becomes part of a storage key.
func checkNames(field string, value any) error {
	list, _ := stringsOf(value)
	for _, text := range list {
		for name := range strings.SplitSeq(text, ",") {
			name = strings.TrimSpace(name)
			switch {
			case name == "":
			case len(name) > apipath.MaxName:
				return fmt.Errorf("%s: %s is too long: %d bytes (at most %d)", field, provider.Quote(name), len(name), apipath.MaxName)
			case !apipath.IsName(name):
				return fmt.Errorf("%s: %s is not a name; %s", field, provider.Quote(name), nameFix(field, name))
			}
		}
	}
	return nil
}

// nameFix returns what to give in place of an invalid name.
func nameFix(field, name string) string {
	if last := name[strings.LastIndex(name, "/")+1:]; last != name && apipath.IsName(last) {
		list := "config"
		if field == "keypair" {
			list = "keypair"
		}
		return fmt.Sprintf("a name is without a vendor or path, as in %s=%s (list %s/ for the names)", field, last, list)
	}
	return nameRule
}

// checkSpace returns an error for white space around a value that a policy may pin. Vault compares
// the value as sent with the policy's parameters, and has not checked a value that is trimmed later.
func checkSpace(field string, value any) error {
	list, _ := stringsOf(value)
	for _, text := range list {
		if trimmed := strings.TrimSpace(text); trimmed != "" && trimmed != text {
			return fmt.Errorf("%s: must not start or end with white space", field)
		}
	}
	return nil
}

// checkPairs returns an error for a value that is not a map of strings, given as a JSON object or as
// name=value pairs, and for a duplicate name. Its error quotes no values, which may be misplaced
// secrets.
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
		return fmt.Errorf("%s: must be name=value pairs; use %s=name=value for each pair, or a JSON object", field, field)
	}
	if strings.Join(list, "") == "" {
		return nil // clears the field
	}
	seen := map[string]bool{}
	for _, pair := range list {
		name, err := checkPair(field, pair)
		switch {
		case err != nil:
			return err
		case seen[name]:
			return fmt.Errorf("%s: duplicate name %s", field, provider.Quote(name))
		}
		seen[name] = true
	}
	return nil
}

// checkPair returns the name of a name=value pair.
func checkPair(field, pair string) (string, error) {
	name, _, isPair := strings.Cut(pair, "=")
	switch {
	case strings.HasPrefix(strings.TrimSpace(pair), "{"):
		return "", fmt.Errorf("%s: must not be a JSON string; use %s, or send the whole request as JSON (vault write <path> @file.json)", field, pairsOf(field, pair))
	case !isPair || name == "":
		return "", fmt.Errorf("%s: must be name=value pairs; use %s=name=value for each pair", field, field)
	}
	return name, nil
}

// pairsOf returns how to write a JSON object as name=value pairs, without its values.
func pairsOf(field, object string) string {
	var values map[string]any
	if json.Unmarshal([]byte(object), &values) != nil || len(values) == 0 {
		return field + "=name=value for each pair"
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

// checkNumber returns an error for a value that is not a number.
func checkNumber(name string, value any) error {
	switch value := value.(type) {
	case float64, int:
		return nil
	case string:
		if _, err := strconv.ParseFloat(value, 64); err == nil || value == "" {
			return nil
		}
	}
	return fmt.Errorf("%s: must be a number", name)
}

// checkInt returns an error for a value that is not a whole number, or that is too large to be stored
// exactly.
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
		return fmt.Errorf("%s: must be a whole number of at most %d", name, math.MaxInt32)
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
		return fmt.Errorf("%s: must be a duration of at most ten years, in seconds or with a unit, such as 30s, 24h or 7d", name)
	case d < 0:
		return fmt.Errorf("%s: must not be negative", name)
	case d > credential.MaxDuration:
		return fmt.Errorf("%s: must be at most ten years", name)
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
