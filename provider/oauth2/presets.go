package oauth2

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/hashicorp/go-secure-stdlib/parseutil"

	"vault-plugin-secrets-tokenbroker/provider"
)

// A Preset has the fields of a credential that are the same for all customers of a vendor,
// as the vendor documents them. Text in braces in a URL, an audience or a token parameter is
// the name of a Param.
type Preset struct {
	Name  string `json:"name"`
	Title string `json:"title"`

	// OtherNames are other names of the vendor, in lower-case letters and digits. The error
	// for an unknown preset suggests Name for them; they are not accepted themselves.
	OtherNames []string `json:"other_names,omitempty"`

	// Docs are the vendor's pages that document the preset.
	Docs []string `json:"docs"`

	// GrantTypes are the supported values of grant_type, the default first.
	GrantTypes []string `json:"grant_types"`

	// AuthStyle is empty if the vendor lets its customers choose.
	AuthStyle string `json:"auth_style,omitempty"`
	TokenURL  string `json:"token_url"`

	// RevocationURL is the endpoint that revokes access tokens (RFC 7009). It is empty if
	// the vendor's endpoint revokes only refresh tokens, or the customer's consent.
	RevocationURL string            `json:"revocation_url,omitempty"`
	Params        []Param           `json:"params,omitempty"`
	TokenParams   map[string]string `json:"token_params,omitempty"`
	Scope         []string          `json:"scope,omitempty"`

	// ScopeSuffix is the end of every scope, if the vendor issues tokens only for all
	// permissions of one API. A request then has one scope.
	ScopeSuffix string `json:"scope_suffix,omitempty"`

	// ScopeInAssertion and AssertionSubjectRequired apply to the grant jwt_bearer,
	// AssertionAudience to every assertion.
	ScopeInAssertion         bool   `json:"scope_in_assertion,omitempty"`
	AssertionAudience        string `json:"assertion_audience,omitempty"`
	AssertionSubjectRequired bool   `json:"assertion_subject_required,omitempty"`

	// DefaultTTL is the documented lifetime of access tokens, if responses do not state it.
	DefaultTTL Period `json:"default_ttl,omitempty"`

	// IdleExpiry is the documented time that a refresh token stays valid without use.
	IdleExpiry Period `json:"idle_expiry,omitempty"`

	// SingleToken reports whether an exchange invalidates the previous access token.
	SingleToken bool `json:"single_token,omitempty"`

	// TransientErrors are documented error codes of transient failures, in addition to those
	// that the engine knows for all vendors.
	TransientErrors []string `json:"transient_errors,omitempty"`

	// Notes is one sentence for the operator.
	Notes string `json:"notes"`

	// dropped are the templates that the preset had before narrowed removed some. They still
	// help to find a parameter in a pasted URL.
	dropped []string
}

// A Param is a parameter of a preset: a property of the operator's account at the vendor.
type Param struct {
	Name        string `json:"name"`
	Description string `json:"description"`

	// Pattern must match the whole value. It allows only labels of a host or an ID, and
	// nothing that could change the host of a URL.
	Pattern string `json:"pattern"`

	// HostSuffixes follow the value in other hosts of the vendor that operators may paste.
	// Those in the URLs of the preset need not be listed.
	HostSuffixes []string `json:"host_suffixes,omitempty"`

	// Default is the default value; if it is empty, the parameter is required.
	Default string `json:"default,omitempty"`

	whole *regexp.Regexp
}

// Period is a number of seconds. In JSON it is a duration as in a credential's fields: 7d, 2h.
type Period provider.Seconds

// UnmarshalJSON parses a duration.
func (p *Period) UnmarshalJSON(text []byte) error {
	var given string
	if err := json.Unmarshal(text, &given); err != nil {
		return err
	}
	d, err := parseutil.ParseDurationSecond(given)
	*p = Period(d / time.Second)
	return err
}

//go:embed presets.json
var presetTable []byte

var presets = sync.OnceValue(func() []Preset {
	list, err := parsePresets(presetTable)
	if err != nil {
		panic(err) // the table is embedded, and a test parses it
	}
	return list
})

// Presets returns all presets, sorted by name. The caller must not modify them.
func Presets() []Preset { return slices.Clone(presets()) }

// PresetNamed returns the preset with that name. Its error is of kind Invalid, and suggests a
// preset if name is another name of one.
func PresetNamed(name string) (Preset, error) {
	p, isKnown := FindPreset(name)
	switch {
	case isKnown && p.Name == name:
		return p, nil
	case isKnown:
		return Preset{}, provider.Errorf(provider.Invalid, "preset: unknown preset %s; did you mean preset=%s (%s)?", provider.Quote(name), p.Name, p.Title)
	}
	return Preset{}, provider.Errorf(provider.Invalid, "preset: unknown preset %s (allowed: %s)", provider.Quote(name), strings.Join(presetNames(), ", "))
}

// FindPreset returns the preset that a person means by name: its own name in any spelling, or
// another name of the vendor.
func FindPreset(name string) (p Preset, isKnown bool) {
	plain := plainName(name)
	for _, p := range presets() {
		if plain == p.Name || slices.Contains(p.OtherNames, plain) {
			return p, true
		}
	}
	return Preset{}, false
}

// plainName reduces a name to lower-case letters and digits.
func plainName(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, name)
}

func presetNames() []string {
	var names []string
	for _, p := range presets() {
		names = append(names, p.Name)
	}
	return names
}

// parsePresets parses a table of presets. An unknown member is an error.
func parsePresets(table []byte) ([]Preset, error) {
	decoder := json.NewDecoder(bytes.NewReader(table))
	decoder.DisallowUnknownFields()
	var list []Preset
	if err := decoder.Decode(&list); err != nil {
		return nil, fmt.Errorf("table of presets: %w", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, fmt.Errorf("table of presets: unexpected data after the table")
	}
	for _, preset := range list {
		for i, param := range preset.Params {
			whole, err := regexp.Compile("^(?:" + param.Pattern + ")$")
			if err != nil {
				return nil, fmt.Errorf("table of presets: %s: %s: %w", preset.Name, param.Name, err)
			}
			preset.Params[i].whole = whole
		}
	}
	return list, nil
}
