package definition

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/go-secure-stdlib/parseutil"
	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-tokenbroker/provider"
)

// A field is a Field with what follows from it.
type field struct {
	Field
	name    string
	pattern *regexp.Regexp // nil if there is none
}

var isFieldName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,39}$`)

func compileField(name string, given Field) (*field, error) {
	if standard, isStandard := standardFields[name]; isStandard {
		if given.Description == "" {
			given.Description = standard.Description
		}
		if given.Type == "" {
			given.Type = standard.Type
		}
		given.Secret = given.Secret || standard.Secret
	}
	f := &field{Field: given, name: name}
	switch {
	case !isFieldName.MatchString(name):
		return nil, fmt.Errorf("a field's name has lower-case letters, digits and underscores, at most 40")
	case slices.Contains(reservedFields, name) || slices.Contains(reservedValues, name):
		return nil, fmt.Errorf("the engine has the name already; choose another")
	case name == "scope" && f.Type != "list":
		return nil, fmt.Errorf("/type: scope is a list")
	case f.Description == "":
		return nil, fmt.Errorf("/description: must be set")
	case f.Secret && f.Default != "":
		return nil, fmt.Errorf("/default: a secret has no default")
	case f.Type == "map" && f.Default != "":
		return nil, fmt.Errorf("/default: a map has no default")
	case f.Narrows && (f.Secret || f.Type == "certificate"):
		return nil, fmt.Errorf("/narrows: a role cannot set a secret or a certificate")
	case f.Narrows && slices.Contains(roleNames, name):
		return nil, fmt.Errorf("/narrows: roles have a field of that name; choose another")
	case f.Secret && f.Type != "" && f.Type != "string" && f.Type != "private_key":
		return nil, fmt.Errorf("/type: a secret is a string or a private_key")
	case f.Type == "private_key" && name != "private_key":
		return nil, fmt.Errorf("/type: only the field private_key is a private_key")
	case !f.isText() && f.Pattern != "":
		return nil, fmt.Errorf("/pattern: only a string that is not a secret has one")
	case !f.isText() && f.Type != "list" && len(f.Allowed) > 0:
		return nil, fmt.Errorf("/allowed: only a string that is not a secret, or a list, has allowed values")
	}
	if err := f.compilePattern(); err != nil {
		return nil, fmt.Errorf("/pattern: %w", err)
	}
	if err := f.checkDefault(); err != nil {
		return nil, fmt.Errorf("/default: %w", err)
	}
	return f, nil
}

// roleNames are the names of the fields that roles have themselves.
var roleNames = []string{"scope", "config", "ttl", "min_ttl", "dedicated", "max_leases", "max_exchanges", "forget_leases", "allowed_params"}

// soundsSecret matches names of fields whose values are secrets.
var soundsSecret = regexp.MustCompile(`(^|_)(secret|password|token|private_key|api_key|apikey|passphrase|pin)$`)

// Warnings returns what is allowed in a definition, but most likely a mistake.
func (d *Definition) Warnings() []string {
	var warnings []string
	if len(d.Docs) == 0 {
		warnings = append(warnings, "docs: name the vendor's page from which the definition was written, for those who change it next")
	}
	for _, name := range sortedKeys(d.fields) {
		if !d.fields[name].Secret && soundsSecret.MatchString(name) {
			warnings = append(warnings, pointerTo("fields", name)+`: the value is shown to those who read the credential; if it is a secret, add "secret": true`)
		}
	}
	return warnings
}

// isText reports whether the field is a string that is not a secret.
func (f *field) isText() bool { return !f.Secret && (f.Type == "" || f.Type == "string") }

func (f *field) compilePattern() (err error) {
	if f.Pattern == "" {
		return nil
	}
	if _, err := regexp.Compile(f.Pattern); err != nil { // by itself, so that it cannot close the group below
		return err
	}
	f.pattern, err = regexp.Compile("^(?:" + f.Pattern + ")$")
	return err
}

// checkDefault returns an error for a default that an operator could not give.
func (f *field) checkDefault() error {
	value := f.defaultValue()
	switch f.Type {
	case "duration", "bool":
		if value == nil && f.Default != "" {
			return fmt.Errorf("is not a %s", f.Type)
		}
		return nil
	}
	texts, isList := value.([]string)
	if text, isText := value.(string); isText {
		texts = []string{text}
	}
	for _, text := range texts {
		switch {
		case !isList && f.pattern != nil && !f.pattern.MatchString(text):
			return fmt.Errorf("does not match the pattern")
		case len(f.Allowed) > 0 && !slices.Contains(f.Allowed, text):
			return fmt.Errorf("is not one of the allowed values")
		}
	}
	return nil
}

// schemaTypes are the types of fields as Vault has them.
var schemaTypes = map[string]framework.FieldType{
	"": framework.TypeString, "string": framework.TypeString, "private_key": framework.TypeString, "certificate": framework.TypeString,
	"list": framework.TypeCommaStringSlice, "duration": framework.TypeDurationSecond, "integer": framework.TypeInt, "bool": framework.TypeBool,
	"map": framework.TypeKVPairs,
}

// schema returns the field for Vault.
func (f *field) schema() *framework.FieldSchema {
	schema := &framework.FieldSchema{
		Type:         schemaTypes[f.Type],
		Description:  sentence(f.Description),
		DisplayAttrs: &framework.DisplayAttributes{Name: displayName(f.name), Sensitive: f.Secret},
	}
	if f.Type == "private_key" || f.Type == "certificate" {
		schema.DisplayAttrs.EditType = "file"
	}
	if f.Default != "" && f.Type != "list" {
		schema.Default = f.Default
	}
	if len(f.Allowed) > 0 {
		schema.AllowedValues = provider.Allowed(f.Allowed)
	}
	return schema
}

// sentence turns a noun phrase into a sentence. The vendor's name of a member stays as it is.
func sentence(phrase string) string {
	if word, _, _ := strings.Cut(phrase, " "); strings.Contains(word, "_") {
		return strings.TrimSuffix(phrase, ".") + "."
	}
	first, size := utf8.DecodeRuneInString(phrase)
	return strings.TrimSuffix(string(unicode.ToUpper(first))+phrase[size:], ".") + "."
}

// displayName returns the name of a field in Vault's user interface.
func displayName(name string) string {
	words := strings.Split(name, "_")
	for i, word := range words {
		switch word {
		case "id", "url", "api", "jwt", "uri":
			words[i] = strings.ToUpper(word)
		default:
			if i == 0 {
				words[i] = strings.ToUpper(word[:1]) + word[1:]
			}
		}
	}
	return strings.Join(words, " ")
}

// value returns a given value as templates take it; nil if it is not set.
func (f *field) value(raw json.RawMessage, d *Definition) (any, error) {
	if raw == nil || string(raw) == "null" {
		return f.defaultValue(), nil
	}
	switch f.Type {
	case "list":
		var list []string
		if err := provider.DecodeFields(raw, &list); err != nil {
			return nil, err
		}
		for _, element := range list {
			if err := f.checkText(element); err != nil {
				return nil, err
			}
		}
		if len(list) == 0 {
			return f.defaultValue(), nil
		}
		return list, nil
	case "map":
		var texts map[string]string
		if err := provider.DecodeFields(raw, &texts); err != nil || len(texts) == 0 {
			return nil, err
		}
		entries := map[string]any{}
		for name, text := range texts {
			if err := f.checkText(text); err != nil {
				return nil, err
			}
			entries[name] = text
		}
		return entries, nil
	case "duration":
		var seconds provider.Seconds
		err := provider.DecodeFields(raw, &seconds)
		return int64(seconds), err
	case "integer":
		var n int64
		err := provider.DecodeFields(raw, &n)
		return n, err
	case "bool":
		var is bool
		err := provider.DecodeFields(raw, &is)
		return is, err
	}
	var text string
	if err := provider.DecodeFields(raw, &text); err != nil {
		return nil, err
	}
	if text == "" {
		return f.defaultValue(), nil
	}
	return f.text(text, d)
}

func (f *field) defaultValue() any {
	switch {
	case f.Default == "":
		return nil
	case f.Type == "list":
		return strings.Split(f.Default, ",")
	case f.Type == "duration":
		if d, err := parseutil.ParseDurationSecond(f.Default); err == nil {
			return int64(d.Seconds())
		}
		return nil
	case f.Type == "bool":
		if is, err := strconv.ParseBool(f.Default); err == nil {
			return is
		}
		return nil
	}
	return f.Default
}

// text returns a given text, or the part of a pasted URL that is meant.
func (f *field) text(given string, d *Definition) (string, error) {
	if f.Type == "private_key" || f.Type == "certificate" {
		return given, nil
	}
	if f.Secret || f.pattern == nil {
		return given, f.checkText(given)
	}
	value, isFound := d.find(f, given)
	if !isFound || !f.pattern.MatchString(value) {
		return "", provider.Errorf(provider.Invalid, "%s: %s is not what %s needs; give %s", f.name, provider.Quote(given), d.Title, strings.TrimSuffix(f.Description, "."))
	}
	return value, f.checkText(value)
}

// checkText returns an error for a text that a request cannot carry.
func (f *field) checkText(text string) error {
	if len(f.Allowed) > 0 && !slices.Contains(f.Allowed, text) {
		return provider.Errorf(provider.Invalid, "%s: unknown value %s (allowed: %s)", f.name, provider.Quote(text), strings.Join(f.Allowed, ", "))
	}
	if f.name == "password" || f.name == "username" { // people choose them, in any language
		if strings.ContainsFunc(text, unicode.IsControl) {
			return provider.Errorf(provider.Invalid, "%s: contains a line break or a control character; give the bare value", f.name)
		}
		return nil
	}
	return provider.CheckFormValue(f.name, text)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
