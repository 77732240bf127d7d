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

// A Preset is what a vendor documents of its OAuth 2.0: the fields of a credential that
// are the same for all its customers. Text in braces in a URL, an audience or a token
// parameter is a Param.
type Preset struct {
	Name  string `json:"name"`
	Title string `json:"title"`

	// OtherNames are what operators may look for instead, in lower-case letters and
	// digits. They are hints: only Name is stored.
	OtherNames []string `json:"other_names,omitempty"`

	// Docs are where the vendor documents what the row says.
	Docs []string `json:"docs"`

	// GrantTypes are those of the field grant_type that the vendor has and that the
	// row is right for. The first is the default.
	GrantTypes []string `json:"grant_types"`

	// AuthStyle is empty where the vendor's customers choose it.
	AuthStyle string `json:"auth_style,omitempty"`
	TokenURL  string `json:"token_url"`

	// RevocationURL is of an endpoint that ends access tokens as RFC 7009 has it. Some
	// vendors have one that ends refresh tokens alone, or the customer's consent: these
	// have none here.
	RevocationURL string            `json:"revocation_url,omitempty"`
	Params        []Param           `json:"params,omitempty"`
	TokenParams   map[string]string `json:"token_params,omitempty"`
	Scope         []string          `json:"scope,omitempty"`

	// ScopeInAssertion and AssertionSubjectRequired are of the grant jwt_bearer,
	// AssertionAudience of every assertion.
	ScopeInAssertion         bool   `json:"scope_in_assertion,omitempty"`
	AssertionAudience        string `json:"assertion_audience,omitempty"`
	AssertionSubjectRequired bool   `json:"assertion_subject_required,omitempty"`

	// DefaultTTL is the documented lifetime of access tokens whose answers do not tell.
	DefaultTTL Period `json:"default_ttl,omitempty"`

	// IdleExpiry is how long a refresh token lives unused, as documented.
	IdleExpiry Period `json:"idle_expiry,omitempty"`

	// SingleToken is whether an exchange ends the access token of the one before.
	SingleToken bool `json:"single_token,omitempty"`

	// TransientErrors are documented error codes of failures that pass by themselves, beside
	// those that the engine knows of all vendors.
	TransientErrors []string `json:"transient_errors,omitempty"`

	// Notes is one sentence for the operator.
	Notes string `json:"notes"`

	// dropped are URLs that do not go with an operator's choice (apt). They still tell what
	// the operator has pasted.
	dropped []string
}

// A Param is what an operator has to say of their own account at the vendor.
type Param struct {
	Name        string `json:"name"`
	Description string `json:"description"`

	// Pattern is what all of a value must match. It holds labels of a host or an ID,
	// and nothing that could turn a URL into another host's.
	Pattern string `json:"pattern"`

	// HostSuffixes are what follows a value in hosts of the vendor where operators see it,
	// besides that of the URLs of the preset.
	HostSuffixes []string `json:"host_suffixes,omitempty"`

	// Default is used if the operator says nothing; if empty, they have to.
	Default string `json:"default,omitempty"`

	whole *regexp.Regexp
}

// Period is a number of seconds, given as the fields of a credential are: 7d, 2h.
type Period provider.Seconds

// UnmarshalJSON reads a period.
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
		panic(err) // of a build whose tests have not passed
	}
	return list
})

// Presets are all that there are, by name. They are for reading.
func Presets() []Preset { return slices.Clone(presets()) }

// PresetNamed is the preset of that name.
func PresetNamed(name string) (Preset, error) {
	for _, p := range presets() {
		if p.Name == name {
			return p, nil
		}
	}
	for _, p := range presets() {
		if plain := plainName(name); plain == p.Name || slices.Contains(p.OtherNames, plain) {
			return Preset{}, provider.Errorf(provider.Invalid, "preset: unknown preset %s; did you mean preset=%s, which is for %s?", provider.Quote(name), p.Name, p.Title)
		}
	}
	return Preset{}, provider.Errorf(provider.Invalid, "preset: unknown preset %s; it must be one of %s", provider.Quote(name), strings.Join(presetNames(), ", "))
}

// plainName is a name in lower-case letters and digits.
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

// parsePresets reads a table, and takes nothing that it does not know.
func parsePresets(table []byte) ([]Preset, error) {
	decoder := json.NewDecoder(bytes.NewReader(table))
	decoder.DisallowUnknownFields()
	var list []Preset
	if err := decoder.Decode(&list); err != nil {
		return nil, fmt.Errorf("the table of presets: %w", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, fmt.Errorf("the table of presets: there is something after it")
	}
	for _, preset := range list {
		for i, param := range preset.Params {
			whole, err := regexp.Compile("^(?:" + param.Pattern + ")$")
			if err != nil {
				return nil, fmt.Errorf("the table of presets: %s: %s: %w", preset.Name, param.Name, err)
			}
			preset.Params[i].whole = whole
		}
	}
	return list, nil
}
