package broker

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"vault-plugin-secrets-tokenbroker/provider"
)

// checkGranted compares what an answer states of the fields of a narrowing with what was asked for. It
// returns an error if a token can do more than that, of what the credential can do, and warnings for any
// other difference. (Guarantee 14.)
func (c *Credential) checkGranted(a *provider.Answer, key string) (warnings []string, failure *provider.Error) {
	fields := provider.ParseNarrowing(key).Fields
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		granted, isStated := a.Granted[name]
		if !isStated {
			continue
		}
		got, asked := elementsOf(granted.Value), elementsOf(fields[name])
		got = slices.DeleteFunc(got, func(e element) bool { return slices.Contains(granted.Ignored, e.name) })
		own := c.RoleFields[name]
		d := compare(got, asked, elementsOf(own), own == nil)
		if len(d.wide) > 0 {
			return nil, newWidenedError("granted %s in %s as well, which the role does not have; give the role a credential of its own", c.shown(a, d.wide), name)
		}
		warnings = append(warnings, d.warnings(name, func(list []element) string { return c.shown(a, list) })...)
	}
	more, failure := c.checkAudience(a, fields)
	return append(warnings, more...), failure
}

// audienceFields are the fields that the aud claim of a token that is a JWT states.
var audienceFields = []string{"audience", "resource"}

// checkAudience is checkGranted for the aud claim of a token that is a JWT (RFC 8707 §2).
func (c *Credential) checkAudience(a *provider.Answer, fields map[string]any) ([]string, *provider.Error) {
	var asked, own []element
	for _, name := range audienceFields {
		asked, own = append(asked, elementsOf(fields[name])...), append(own, elementsOf(c.RoleFields[name])...)
	}
	got := elementsOf(provider.JWTAudience(a.AccessToken))
	if len(asked) == 0 || len(got) == 0 {
		return nil, nil
	}
	d := compare(got, asked, own, false)
	switch {
	case len(d.missing) == len(asked):
		return nil, newWidenedError("issued a token for %s, which the role did not ask for; give audience or resource as the vendor states it, or the role a credential of its own", c.shown(a, d.more))
	case len(d.wide) > 0:
		return nil, newWidenedError("issued a token for %s as well, which the role does not have; give the role a credential of its own", c.shown(a, d.wide))
	}
	return d.warnings("audience", func(list []element) string { return c.shown(a, list) }), nil
}

// shown returns elements for an error, without secrets.
func (c *Credential) shown(a *provider.Answer, elements []element) string {
	return provider.Redacted(join(elements), append(slices.Clone(c.Secrets), a.AccessToken)...)
}

// An element is an element of a list, or an entry of a map.
type element struct{ name, value string }

func (e element) String() string {
	if e.value == "" {
		return e.name
	}
	return e.name + "=" + e.value
}

func join(elements []element) string {
	texts := make([]string, len(elements))
	for i, e := range elements {
		texts[i] = e.String()
	}
	return provider.List(texts)
}

// elementsOf returns the elements of a list or a map, sorted; the text itself for one.
func elementsOf(value any) []element {
	var all []element
	switch value := value.(type) {
	case string:
		all = []element{{name: value}}
	case []string:
		for _, one := range value {
			all = append(all, element{name: one})
		}
	case []any:
		for _, one := range value {
			all = append(all, element{name: fmt.Sprint(one)})
		}
	case map[string]string:
		for name, one := range value {
			all = append(all, element{name, one})
		}
	case map[string]any:
		for name, one := range value {
			all = append(all, element{name, fmt.Sprint(one)})
		}
	}
	slices.SortFunc(all, func(a, b element) int { return strings.Compare(a.String(), b.String()) })
	return all
}

// A difference is that between what was granted and what was asked for.
type difference struct {
	more, missing []element

	// wide are those of more that the credential has itself, or that are another value of what was asked
	// for.
	wide []element
}

// compare compares what was granted with what was asked for. own is what the credential has; isAny is
// whether it may have anything.
func compare(got, asked, own []element, isAny bool) difference {
	var d difference
	for _, e := range got {
		if contains(asked, e) {
			continue
		}
		d.more = append(d.more, e)
		isOther := slices.ContainsFunc(asked, func(one element) bool { return one.value != "" && one.name == e.name })
		if isAny || isOther || contains(own, e) {
			d.wide = append(d.wide, e)
		}
	}
	for _, e := range asked {
		if !contains(got, e) {
			d.missing = append(d.missing, e)
		}
	}
	return d
}

// contains reports whether a list has an element. A slash at the end of a URL does not matter.
func contains(list []element, e element) bool {
	bare := func(e element) element { return element{strings.TrimSuffix(e.name, "/"), e.value} }
	return slices.ContainsFunc(list, func(one element) bool { return bare(one) == bare(e) })
}

func (d difference) warnings(field string, shown func([]element) string) []string {
	var warnings []string
	if len(d.missing) > 0 {
		warnings = append(warnings, fmt.Sprintf("the vendor did not grant all of the role's %s: this token lacks %s", field, shown(d.missing)))
	}
	if len(d.more) > 0 {
		warnings = append(warnings, fmt.Sprintf("the vendor granted in %s what it was not asked for: %s", field, shown(d.more)))
	}
	return warnings
}
