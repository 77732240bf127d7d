package provider

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// A Narrowing is what a token is for, within what its credential may do. The zero Narrowing is all of it.
type Narrowing struct {
	// Scope are the scopes; all that the credential has if empty.
	Scope []string

	// Fields are the values that fields of the credential have for the token, with the types that storage
	// uses: string, bool, json.Number, []any or map[string]any. Only fields that the vendor's RoleFields
	// name are among them.
	Fields map[string]any
}

// A Narrowable is a provider of which roles can set fields, besides the scope.
type Narrowable interface {
	// RoleFields returns the fields that a role can set, by name.
	RoleFields() map[string]RoleField
}

// A Partial is a credential that may lack a field, so that only a role that sets it has tokens.
type Partial interface {
	// Lacks returns the name of the field; "" if the credential has all that an exchange needs.
	Lacks() string
}

// LackOf returns the field without which a credential has no token of its own; "" if there is none.
func LackOf(c Credential) string {
	if partial, is := c.(Partial); is {
		return partial.Lacks()
	}
	return ""
}

// A RoleField is a field that a role can set. Its value must be within that of the credential.
type RoleField struct {
	// Adds is whether the entries of a map are added to those of the credential, and cannot replace them.
	Adds bool
}

// RoleFieldsOf returns the fields that a role of a vendor's credential can set, by name; nil if there are
// none.
func RoleFieldsOf(p Provider) map[string]RoleField {
	if n, is := p.(Narrowable); is {
		return n.RoleFields()
	}
	return nil
}

// Narrowed returns the value of a field for a narrower token. whole is that of the credential; nil if it has
// none. Its errors are those of CheckWithin.
func (f RoleField) Narrowed(field string, value, whole any) (any, error) {
	entries, isMap := value.(map[string]any)
	if own, has := whole.(map[string]any); f.Adds && isMap && has {
		all := maps.Clone(own)
		for name, one := range entries {
			if last, isSet := own[name]; isSet && !reflect.DeepEqual(last, one) {
				return nil, Errorf(Invalid, "%s: the credential has another value of %s", field, Quote(name))
			}
			all[name] = one
		}
		return all, nil
	}
	return value, CheckWithin(field, value, whole, "the credential")
}

// keySeparator is between the scope and the fields in a key. No scope contains it.
const keySeparator = "\n"

// Key returns the narrowing as a text that is the same for equal ones: the scopes in the form of JoinScope,
// and the fields if there are any. ParseNarrowing is the inverse.
func (n Narrowing) Key() string {
	key := JoinScope(n.Scope)
	if len(n.Fields) == 0 {
		return key
	}
	fields, err := json.Marshal(n.Fields) // sorts the names
	if err != nil {                       // storage has the fields as JSON
		panic(err)
	}
	return key + keySeparator + string(fields)
}

// ParseNarrowing returns the narrowing with a key.
func ParseNarrowing(key string) Narrowing {
	scope, fields, hasFields := strings.Cut(key, keySeparator)
	n := Narrowing{Scope: strings.Fields(scope)}
	if hasFields {
		decoder := json.NewDecoder(strings.NewReader(fields))
		decoder.UseNumber()
		_ = decoder.Decode(&n.Fields) // Key has encoded them
	}
	return n
}

// ShownKey returns a key for people: in status, logs and events.
func ShownKey(key string) string {
	scope, fields, hasFields := strings.Cut(key, keySeparator)
	if !hasFields {
		return scope
	}
	return strings.TrimSpace(scope + " " + fields)
}

// CheckWithin returns an error of kind Invalid if a value of a field is more than another one, of which what
// says whose it is: a list must be a subset, a map have some of the same entries, and any other value be the
// same. Everything is within nil.
func CheckWithin(field string, value, whole any, what string) error {
	if whole == nil {
		return nil
	}
	switch value := value.(type) {
	case []any:
		if list, isList := whole.([]any); isList {
			for _, element := range value {
				if !slices.Contains(list, element) {
					return Errorf(Invalid, "%s: %s has no %s (it has %s)", field, what, Quote(fmt.Sprint(element)), quoteAll(list))
				}
			}
			return nil
		}
	case map[string]any:
		if entries, isMap := whole.(map[string]any); isMap {
			for name, one := range value {
				if own, has := entries[name]; !has || !reflect.DeepEqual(own, one) {
					return Errorf(Invalid, "%s: %s does not have %s=%s", field, what, Quote(name), Quote(fmt.Sprint(one)))
				}
			}
			return nil
		}
	}
	if !reflect.DeepEqual(value, whole) {
		return Errorf(Invalid, "%s: %s has another value, %s", field, what, Quote(fmt.Sprint(whole)))
	}
	return nil
}

func quoteAll(list []any) string {
	texts := make([]string, len(list))
	for i, element := range list {
		texts[i] = fmt.Sprint(element)
	}
	return List(texts)
}
