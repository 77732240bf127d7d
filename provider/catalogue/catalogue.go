// Package catalogue has the definitions of well-known vendors.
package catalogue

import (
	"embed"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"unicode"

	"vault-plugin-secrets-tokenbroker/provider/definition"
)

//go:embed vendors/*.json
var files embed.FS

// parsed are the vendors that were looked up, by name. A mount uses few of them.
var parsed sync.Map

// Read parses the definition of a vendor of the catalogue.
func Read(name string) (*definition.Definition, error) {
	text, err := files.ReadFile(path.Join("vendors", name+".json"))
	if err != nil {
		return nil, fmt.Errorf("no vendor named %s: %w", name, err)
	}
	d, err := definition.Parse(name, text)
	if err != nil {
		return nil, fmt.Errorf("vendors/%s.json: %w", name, err)
	}
	return d, nil
}

// Names returns the names of all vendors, sorted. It parses no definition.
func Names() []string { return slices.Clone(names()) }

var names = sync.OnceValue(func() []string {
	entries, err := files.ReadDir("vendors")
	if err != nil {
		panic(err) // the folder is embedded
	}
	names := make([]string, len(entries))
	for i, entry := range entries {
		names[i] = strings.TrimSuffix(entry.Name(), ".json")
	}
	slices.Sort(names)
	return names
})

// Lookup returns the vendor with a name; nil if there is none.
func Lookup(name string) *definition.Provider {
	if p, isParsed := parsed.Load(name); isParsed {
		return p.(*definition.Provider)
	}
	if _, isThere := slices.BinarySearch(names(), name); !isThere {
		return nil
	}
	d, err := Read(name)
	if err != nil {
		panic(err) // the file is embedded, and a test parses each
	}
	p, _ := parsed.LoadOrStore(name, definition.NewProvider(d))
	return p.(*definition.Provider)
}

// Find returns the vendor that a person means by name: its own name in any spelling, its title, or another
// name of it. It returns nil if there is none.
func Find(name string) *definition.Provider {
	plain := plainName(name)
	for _, candidate := range Names() {
		p := Lookup(candidate)
		if plain == plainName(candidate) || plain == plainName(p.Title) || slices.Contains(p.OtherNames, plain) {
			return p
		}
	}
	return nil
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
