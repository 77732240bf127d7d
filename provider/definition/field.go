package definition

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"

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
	case slices.Contains(reservedFields, name):
		return nil, fmt.Errorf("every credential has the field already; choose another name")
	case f.Description == "":
		return nil, fmt.Errorf("/description: must be set")
	case f.Secret && f.Default != "":
		return nil, fmt.Errorf("/default: a secret has no default")
	case f.Default != "" && (f.Type == "duration" || f.Type == "bool"):
		return nil, fmt.Errorf("/default: a %s has no default", f.Type)
	case f.Secret && f.Type != "" && f.Type != "string" && f.Type != "private_key":
		return nil, fmt.Errorf("/type: a secret is a string or a private_key")
	case f.Type == "private_key" && name != "private_key":
		return nil, fmt.Errorf("/type: only the field private_key is a private_key")
	}
	if f.Pattern == "" {
		return f, nil
	}
	pattern, err := regexp.Compile("^(?:" + f.Pattern + ")$")
	if err != nil {
		return nil, fmt.Errorf("/pattern: %w", err)
	}
	f.pattern = pattern
	if f.Default != "" && !pattern.MatchString(f.Default) {
		return nil, fmt.Errorf("/default: does not match the pattern")
	}
	return f, nil
}

// hostBreakers are characters that end a host, or begin another.
const hostBreakers = `/?#@:\[]% `

// checkInHost returns an error if values of the field could change the host of a URL.
func (f *field) checkInHost() error {
	if len(f.Allowed) > 0 {
		return nil
	}
	if f.pattern == nil {
		return fmt.Errorf("{%s} is part of a host, so the field needs a pattern", f.name)
	}
	for _, breaker := range hostBreakers {
		for _, value := range []string{string(breaker), "a" + string(breaker) + "b", "a.b" + string(breaker), string(breaker) + "a", "1" + string(breaker) + "1"} {
			if f.pattern.MatchString(value) {
				return fmt.Errorf("{%s} is part of a host, so the field's pattern must not allow %q", f.name, breaker)
			}
		}
	}
	return nil
}

// schemaTypes are the types of fields as Vault has them.
var schemaTypes = map[string]framework.FieldType{
	"": framework.TypeString, "string": framework.TypeString, "private_key": framework.TypeString, "certificate": framework.TypeString,
	"list": framework.TypeCommaStringSlice, "duration": framework.TypeDurationSecond, "bool": framework.TypeBool,
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

// sentence turns a noun phrase into a sentence.
func sentence(phrase string) string {
	first, rest := phrase[:1], phrase[1:]
	return strings.TrimSuffix(strings.ToUpper(first)+rest, ".") + "."
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
	if raw == nil {
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
	case "duration":
		var seconds provider.Seconds
		err := provider.DecodeFields(raw, &seconds)
		return int64(seconds), err
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
