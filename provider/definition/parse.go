package definition

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode"

	"github.com/go-openapi/jsonpointer"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"

	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/exchange"
)

//go:embed definition.schema.json
var schemaText []byte

// Schema returns the JSON Schema of definitions.
func Schema() []byte { return bytes.Clone(schemaText) }

var schema = sync.OnceValue(func() *jsonschema.Schema {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(schemaText))
	if err == nil {
		compiler := jsonschema.NewCompiler()
		if err = compiler.AddResource("definition.schema.json", document); err == nil {
			var compiled *jsonschema.Schema
			if compiled, err = compiler.Compile("definition.schema.json"); err == nil {
				return compiled
			}
		}
	}
	panic(err) // the schema is embedded, and a test compiles it
})

// maxSize is the longest definition, in bytes.
const maxSize = 64 << 10

var isName = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)

// Parse returns the definition of a vendor. Its error is of kind Invalid, and names the JSON Pointer of
// what is wrong.
func Parse(name string, text []byte) (*Definition, error) {
	if len(name) > 40 || !isName.MatchString(name) {
		return nil, provider.Errorf(provider.Invalid, "vendor: %s is not the name of a vendor: lower-case letters, digits and dashes, at most 40", provider.Quote(name))
	}
	if len(text) > maxSize {
		return nil, provider.Errorf(provider.Invalid, "definition: %d bytes is too long (at most %d)", len(text), maxSize)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, notJSON(text, err)
	}
	if err := schema().Validate(document); err != nil {
		return nil, provider.Errorf(provider.Invalid, "definition: %s", schemaError(err))
	}
	d := &Definition{Name: name, text: text}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber() // a number in a body is sent as it is written
	if err := decoder.Decode(d); err != nil {
		return nil, provider.Errorf(provider.Invalid, "definition: %s", err)
	}
	if err := d.compile(); err != nil {
		return nil, provider.Errorf(provider.Invalid, "definition: %s", err)
	}
	return d, nil
}

// isFileName matches what an operator gives without the @ of a file.
var isFileName = regexp.MustCompile(`^[^\s{}"]+\.json$`)

// notJSON returns the error of a definition that is not JSON, with the place of the fault.
func notJSON(text []byte, err error) error {
	if isFileName.Match(text) {
		return provider.Errorf(provider.Invalid, "definition: is the name of a file; give its content with definition=@%s", bytes.TrimPrefix(text, []byte("@")))
	}
	var fault *json.SyntaxError
	if errors.As(json.Unmarshal(text, new(any)), &fault) {
		before := text[:fault.Offset]
		line, column := 1+bytes.Count(before, []byte("\n")), len(before)-1-bytes.LastIndexByte(before, '\n')
		return provider.Errorf(provider.Invalid, "definition: not JSON: line %d, column %d: %s", line, column, fault)
	}
	return provider.Errorf(provider.Invalid, "definition: not JSON: %s", err)
}

// schemaError returns the first and deepest of the faults that a schema found.
func schemaError(err error) string {
	var invalid *jsonschema.ValidationError
	if !errors.As(err, &invalid) {
		return err.Error()
	}
	for len(invalid.Causes) > 0 {
		slices.SortStableFunc(invalid.Causes, func(a, b *jsonschema.ValidationError) int {
			return len(b.InstanceLocation) - len(a.InstanceLocation)
		})
		invalid = invalid.Causes[0]
	}
	text := invalid.ErrorKind.LocalizedString(message.NewPrinter(language.English))
	if extra, is := invalid.ErrorKind.(*kind.AdditionalProperties); is {
		text = "unknown member " + strings.Join(extra.Properties, ", ")
	}
	return fmt.Sprintf("%s: %s", pointerTo(invalid.InstanceLocation...), text)
}

// pointerTo returns a JSON Pointer.
func pointerTo(tokens ...string) string {
	var pointer strings.Builder
	for _, token := range tokens {
		pointer.WriteString("/" + jsonpointer.Escape(token))
	}
	if pointer.Len() == 0 {
		return "/"
	}
	return pointer.String()
}

// ofDefinition precedes a place of the definition in the error of a grant that uses it.
const ofDefinition = "#"

// at adds a place to an error.
func at(place string, err error) error {
	if err == nil || place == "" || strings.HasPrefix(err.Error(), ofDefinition) {
		return err
	}
	if rest, isBelow := strings.CutPrefix(err.Error(), "/"); isBelow {
		return fmt.Errorf("%s/%s", place, rest)
	}
	return fmt.Errorf("%s: %w", place, err)
}

// compile checks the definition and prepares its parts.
func (d *Definition) compile() error {
	d.fields = map[string]*field{}
	for _, name := range sortedKeys(d.Fields) {
		f, err := compileField(name, d.Fields[name])
		if err != nil {
			return at(pointerTo("fields", name), err)
		}
		d.fields[name] = f
	}
	if err := d.addConsentFields(); err != nil {
		return err
	}
	for i, link := range d.Docs {
		if u, err := url.Parse(link); err != nil || u.Scheme != "https" || u.Host == "" {
			return fmt.Errorf("/docs/%d: must be an https URL", i)
		}
	}
	names := map[string]bool{}
	for i := range d.Grants {
		g, err := d.compileGrant(&d.Grants[i])
		if err != nil {
			return errors.New(strings.TrimPrefix(at(pointerTo("grants", fmt.Sprint(i)), err).Error(), ofDefinition))
		}
		if names[g.given.GrantType] {
			return fmt.Errorf("/grants/%d/grant_type: %s is there twice", i, g.given.GrantType)
		}
		names[g.given.GrantType] = true
		d.compiled = append(d.compiled, g)
	}
	if err := d.checkAPI(&d.API); err != nil {
		return err
	}
	for i, g := range d.Grants {
		if g.API != nil {
			if err := d.checkAPI(g.API); err != nil {
				return at(pointerTo("grants", fmt.Sprint(i)), err)
			}
		}
	}
	if err := d.checkConsent(); err != nil {
		return err
	}
	if err := d.compileRotations(); err != nil {
		return err
	}
	return d.checkUsed()
}

// isHeader matches the name of a header (RFC 9110 §5.1).
var isHeader = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")

// ofTheClient are headers that the client sets itself.
var ofTheClient = []string{"Cache-Control", "Connection", "Content-Length", "Host", "Transfer-Encoding", "User-Agent"}

// checkHeaders returns an error for a header that cannot be sent.
func checkHeaders(place string, headers map[string]string) error {
	for _, name := range sortedKeys(headers) {
		switch {
		case !isHeader.MatchString(name):
			return fmt.Errorf("%s: is not the name of a header", place+pointerTo(name))
		case slices.Contains(ofTheClient, http.CanonicalHeaderKey(name)):
			return fmt.Errorf("%s: the engine sets the header", place+pointerTo(name))
		case strings.ContainsFunc(headers[name], unicode.IsControl):
			return fmt.Errorf("%s: has a control character, which a header cannot carry", place+pointerTo(name))
		}
	}
	return nil
}

func (d *Definition) checkAPI(api *API) error {
	if err := checkHeaders(pointerTo("api", "headers"), api.Headers); err != nil {
		return err
	}
	for _, name := range sortedKeys(api.Headers) {
		place := pointerTo("api", "headers", name)
		template, err := exchange.ParseTemplate(api.Headers[name])
		if err != nil {
			return at(place, err)
		}
		for _, used := range template.Names() {
			if f := d.fields[used]; f == nil || f.Secret {
				return fmt.Errorf("%s: {%s} is not a field that readers may see", place, used)
			}
		}
	}
	return nil
}

// checkUsed checks that each field is used.
func (d *Definition) checkUsed() error {
	for _, name := range sortedKeys(d.fields) {
		if !slices.ContainsFunc(d.compiled, func(g *grant) bool { return g.usesField(d, name) }) {
			return fmt.Errorf("%s: no request uses the field", pointerTo("fields", name))
		}
	}
	return nil
}

// api returns how the API takes the grant's tokens.
func (g *grant) api(d *Definition) *API {
	if g.given.API != nil {
		return g.given.API
	}
	return &d.API
}

// names returns the names of the fields that the headers have.
func (a *API) names() []string {
	var names []string
	for _, text := range a.Headers {
		if template, err := exchange.ParseTemplate(text); err == nil {
			names = append(names, template.Names()...)
		}
	}
	return names
}

// badEscape matches a ~ that escapes nothing, which the library accepts.
var badEscape = regexp.MustCompile(`~([^01]|$)`)

// checkPointer checks a JSON Pointer (RFC 6901).
func checkPointer(text string) error {
	if text == "" {
		return nil
	}
	if _, err := jsonpointer.New(text); err != nil || badEscape.MatchString(text) {
		return fmt.Errorf("%q is not a JSON Pointer such as /data/token", text)
	}
	return nil
}
