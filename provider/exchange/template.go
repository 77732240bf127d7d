package exchange

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

// A Template is a text with placeholders: {name}, or {name|function}.
type Template struct {
	text  string
	parts []part // empty if there is no placeholder
}

// A part of a template is literal text, or a placeholder.
type part struct{ literal, name, function string }

// Values are what the placeholders of a template stand for: strings, lists of strings, numbers and
// booleans. A name that is missing, or has an empty value, is not set.
type Values map[string]any

var placeholder = regexp.MustCompile(`\{([a-z][a-z0-9_]*)(?:\|([a-z0-9_]+))?\}`)

// Literal returns a template without placeholders, whatever characters the text has.
func Literal(text string) Template { return Template{text: text} }

// ParseTemplate parses a template. An unknown function, or a brace that belongs to no placeholder, is
// an error.
func ParseTemplate(text string) (Template, error) {
	t := Template{text: text}
	rest := 0
	for _, m := range placeholder.FindAllStringSubmatchIndex(text, -1) {
		p := part{name: text[m[2]:m[3]]}
		if m[4] >= 0 {
			p.function = text[m[4]:m[5]]
			if functions[p.function] == nil {
				return Template{}, fmt.Errorf("unknown function %q (allowed: %s)", p.function, strings.Join(slices.Sorted(maps.Keys(functions)), ", "))
			}
		}
		t.parts = append(t.parts, part{literal: text[rest:m[0]]}, p)
		rest = m[1]
	}
	if strings.ContainsAny(placeholder.ReplaceAllString(text, ""), "{}") {
		return Template{}, fmt.Errorf("a brace is not part of a placeholder such as {client_id}")
	}
	if len(t.parts) > 0 {
		t.parts = append(t.parts, part{literal: text[rest:]})
	}
	return t, nil
}

// Placeholder returns a template that is one value: name, or name|function.
func Placeholder(name string) Template { return mustParse("{" + name + "}") }

// A Use is a placeholder of a template. Function is "" for the value as it is.
type Use struct{ Name, Function string }

// String returns the placeholder as it is written.
func (u Use) String() string {
	if u.Function == "" {
		return "{" + u.Name + "}"
	}
	return "{" + u.Name + "|" + u.Function + "}"
}

// Uses returns the placeholders.
func (t Template) Uses() []Use {
	var uses []Use
	for _, p := range t.parts {
		if p.name != "" {
			uses = append(uses, Use{p.name, p.function})
		}
	}
	return uses
}

// Names returns the names of the placeholders.
func (t Template) Names() []string { return namesOf(t.Uses()) }

func namesOf(uses []Use) []string {
	var names []string
	for _, use := range uses {
		if !slices.Contains(names, use.Name) {
			names = append(names, use.Name)
		}
	}
	return names
}

// IsZero reports whether the template is empty.
func (t Template) IsZero() bool { return t.text == "" }

// fill returns the text, with each value escaped. isSet is false if a placeholder is not set.
func (t Template) fill(values Values, escape func(string) string) (text string, isSet bool, err error) {
	if len(t.parts) == 0 {
		return t.text, true, nil
	}
	var out strings.Builder
	for _, p := range t.parts {
		if p.name == "" {
			out.WriteString(p.literal)
			continue
		}
		value, err := p.value(values)
		if err != nil || value == "" {
			return "", false, err
		}
		out.WriteString(escape(value))
	}
	return out.String(), true, nil
}

// Fill returns the text; "" if a placeholder is not set.
func (t Template) Fill(values Values) (string, error) {
	text, _, err := t.fill(values, verbatim)
	return text, err
}

// value returns the text of a placeholder; "" if it is not set.
func (p part) value(values Values) (string, error) {
	text := textOf(values[p.name], values)
	if text == "" || p.function == "" {
		return text, nil
	}
	return functions[p.function](text)
}

// placeholder returns the name of the placeholder that is all of the template, without a function; "" if
// there is none.
func (t Template) placeholder() string {
	if len(t.parts) == 3 && t.parts[0].literal == "" && t.parts[2].literal == "" && t.parts[1].function == "" {
		return t.parts[1].name
	}
	return ""
}

// ScopeSeparator is the name of the value that separates the elements of a list in a text.
const ScopeSeparator = "scope_separator"

// textOf returns a value as text.
func textOf(value any, values Values) string {
	switch value := value.(type) {
	case nil:
		return ""
	case string:
		return value
	case map[string]any:
		text, _ := json.Marshal(value) // of texts
		return string(text)
	case []string:
		separator, _ := values[ScopeSeparator].(string)
		if separator == "" {
			separator = " "
		}
		return strings.Join(value, separator)
	case Repeated:
		return strings.Join(value, " ")
	}
	return fmt.Sprint(value)
}

// functions are the functions of placeholders. They have only these, so that a definition is data and
// not a program.
var functions = map[string]func(string) (string, error){
	"base64": func(s string) (string, error) { return base64.StdEncoding.EncodeToString([]byte(s)), nil },
	"joined": func(s string) (string, error) { return s, nil }, // a list as one text
	"upper":  func(s string) (string, error) { return strings.ToUpper(s), nil },
	"lower":  func(s string) (string, error) { return strings.ToLower(s), nil },
	"sha256": func(s string) (string, error) {
		sum := sha256.Sum256([]byte(s))
		return hex.EncodeToString(sum[:]), nil
	},
	"last_segment":  func(s string) (string, error) { return s[strings.LastIndexByte(s, '/')+1:], nil },
	"public_sha256": provider.PublicKeyDigest,
	"x5t":           provider.CertificateSHA1,
	"x5t_s256":      provider.CertificateSHA256,
}

// dynamic adds the values that are new for each request. lifetime is that of the token that a request asks
// for; zero if it asks for none.
func dynamic(values Values, now time.Time, lifetime time.Duration, random string) Values {
	next := maps.Clone(values)
	next["now"], next["now_ms"], next["uuid"] = now.Unix(), now.UnixMilli(), random
	if lifetime > 0 {
		expires := now.Add(lifetime)
		next["expires"], next["expires_date"], next["expires_time"] = expires.Unix(), expires.UTC().Format(time.DateOnly), expires.UTC().Format(time.RFC3339)
	}
	return next
}

// A Tree is a JSON value whose strings are templates.
type Tree struct{ value any }

// NewTree returns a tree for a decoded JSON value. Its error names the JSON Pointer of a string that is
// no template.
func NewTree(value any) (Tree, error) {
	converted, err := convert(value, "")
	return Tree{converted}, err
}

func convert(value any, at string) (any, error) {
	switch value := value.(type) {
	case string:
		t, err := ParseTemplate(value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
		return t, nil
	case Template:
		return value, nil
	case []any:
		list := make([]any, len(value))
		for i, element := range value {
			converted, err := convert(element, fmt.Sprintf("%s/%d", at, i))
			if err != nil {
				return nil, err
			}
			list[i] = converted
		}
		return list, nil
	case map[string]any:
		object := make(map[string]any, len(value))
		for name, member := range value {
			converted, err := convert(member, at+"/"+strings.NewReplacer("~", "~0", "/", "~1").Replace(name))
			if err != nil {
				return nil, err
			}
			object[name] = converted
		}
		return object, nil
	}
	return value, nil
}

// Fill returns the JSON value, without members and elements that are not set.
func (t Tree) Fill(values Values) (any, error) { return t.fill(values) }

// Uses returns all placeholders.
func (t Tree) Uses() []Use {
	var uses []Use
	walk(t.value, func(template Template) { uses = append(uses, template.Uses()...) })
	return uses
}

// Names returns the names of all placeholders.
func (t Tree) Names() []string { return namesOf(t.Uses()) }

func walk(value any, visit func(Template)) {
	switch value := value.(type) {
	case Template:
		visit(value)
	case []any:
		for _, element := range value {
			walk(element, visit)
		}
	case map[string]any:
		for _, member := range value {
			walk(member, visit)
		}
	}
}

// fill returns the JSON value. A member or an element that is not set is left out. A string that is
// only the placeholder of a list, a number or a boolean has the value's own type.
func (t Tree) fill(values Values) (any, error) {
	value, _, err := fillTree(t.value, values)
	return value, err
}

func fillTree(value any, values Values) (filled any, isSet bool, err error) {
	switch value := value.(type) {
	case Template:
		if name := value.placeholder(); name != "" {
			switch own := values[name].(type) {
			case string, nil:
			case []string:
				return own, len(own) > 0, nil
			case Repeated:
				return own, len(own) > 0, nil
			default:
				return own, true, nil
			}
		}
		return value.fill(values, verbatim)
	case []any:
		list := []any{}
		for _, element := range value {
			filled, isSet, err := fillTree(element, values)
			if err != nil {
				return nil, false, err
			}
			if isSet {
				list = append(list, filled)
			}
		}
		return list, true, nil
	case map[string]any:
		object := map[string]any{}
		for name, member := range value {
			filled, isSet, err := fillTree(member, values)
			if err != nil {
				return nil, false, err
			}
			if isSet {
				object[name] = filled
			}
		}
		return object, true, nil
	}
	return value, true, nil
}

func verbatim(text string) string { return text }
