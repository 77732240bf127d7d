// Package canary looks for secrets where none should be: in what left a process, in each
// form that a secret takes on its way through URLs, headers and JSON.
package canary

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// shortest is the length of the shortest form that is looked for: what is shorter may
// stand anywhere by chance.
const shortest = 12

// A Cage holds secrets.
type Cage struct {
	// byHead holds their forms by the first eight bytes, so that a search looks once at
	// each place of a text, however many there are.
	byHead map[uint64][]form
	count  map[string]bool
}

type form struct{ text, name, secret string }

// Add adds secrets. Of PEM, each line is one; what is too short to be told from chance is
// none.
func (c *Cage) Add(secrets ...string) {
	if c.byHead == nil {
		c.byHead, c.count = map[uint64][]form{}, map[string]bool{}
	}
	for _, secret := range secrets {
		for line := range strings.Lines(secret) {
			line = strings.TrimSpace(line)
			if len(line) < shortest || strings.HasPrefix(line, "-----") || c.count[line] {
				continue
			}
			c.count[line] = true
			for text, name := range forms(line) {
				head := binary.BigEndian.Uint64([]byte(text))
				c.byHead[head] = append(c.byHead[head], form{text, name, line})
			}
		}
	}
}

// Len is how many secrets there are.
func (c *Cage) Len() int { return len(c.count) }

// Escaped are the secrets that stand in a text, each with the form that it has there and
// what stands around it. A secret is quoted by its first letters alone.
func (c *Cage) Escaped(text string) []string {
	found := map[string]bool{}
	var head uint64
	for i := range len(text) {
		head = head<<8 | uint64(text[i])
		start := i - 7
		if start < 0 {
			continue
		}
		for _, f := range c.byHead[head] {
			if strings.HasPrefix(text[start:], f.text) {
				before, after := text[max(0, start-80):start], text[start+len(f.text):]
				found[f.secret[:6]+"…, "+f.name+", in …"+before+"‹here›"+after[:min(40, len(after))]+"…"] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// forms are the forms of a secret, each with its name.
func forms(secret string) map[string]string {
	all := map[string]string{}
	add := func(text, name string) {
		if _, known := all[text]; !known && len(text) >= shortest {
			all[text] = name
		}
	}
	add(secret, "as it is")
	add(url.QueryEscape(secret), "URL-encoded")
	add(url.PathEscape(secret), "URL-encoded")
	// Without the quotes, of which the last may be far away.
	if quoted, err := json.Marshal(secret); err == nil {
		add(string(quoted[1:len(quoted)-1]), "JSON-escaped")
	}
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		// Within a longer text it begins at any of three places of a group of four
		// letters; the letters that its neighbours have a part in are left out.
		for shift := range 3 {
			encoded := encoding.EncodeToString([]byte(strings.Repeat("\x00", shift) + secret))
			skip := (shift*8 + 5) / 6
			whole := (shift + len(secret)) * 8 / 6
			add(encoded[skip:whole], "in base64")
		}
	}
	return all
}
