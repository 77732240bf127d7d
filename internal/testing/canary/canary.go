// Package canary searches output for secrets that must not be in it, in every encoding that a
// secret may have in URLs, headers and JSON.
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

// shortest is the minimum length of a form. A shorter text could match by chance.
const shortest = 12

// A Cage is a set of secrets to search for. The zero value is empty and ready to use.
type Cage struct {
	// byHead maps the first eight bytes of a form to the forms that begin with them, so that
	// the time of a search does not depend on the number of secrets.
	byHead map[uint64][]form
	count  map[string]bool
}

type form struct{ text, name, secret string }

// Add adds secrets. Every line of a PEM block counts as a secret. Lines that are too short are
// ignored, because they could match by chance.
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

// Len returns the number of secrets.
func (c *Cage) Len() int { return len(c.count) }

// Escaped returns the secrets that a text contains, each with its form and the text around it,
// sorted. It quotes only the first six bytes of a secret.
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

// forms maps the forms of a secret to their names.
func forms(secret string) map[string]string {
	all := map[string]string{}
	add := func(text, name string) {
		if _, known := all[text]; !known && len(text) >= shortest {
			all[text] = name
		}
	}
	add(secret, "unencoded")
	add(url.QueryEscape(secret), "URL-encoded")
	add(url.PathEscape(secret), "URL-encoded")
	// Without the quotes, because the secret may be a part of a longer string.
	if quoted, err := json.Marshal(secret); err == nil {
		add(string(quoted[1:len(quoted)-1]), "JSON-escaped")
	}
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		// In a longer text, the secret begins at one of three offsets within a group of three
		// bytes. The characters at its ends also encode neighbouring bytes, so leave them out.
		for shift := range 3 {
			encoded := encoding.EncodeToString([]byte(strings.Repeat("\x00", shift) + secret))
			skip := (shift*8 + 5) / 6
			whole := (shift + len(secret)) * 8 / 6
			add(encoded[skip:whole], "in base64")
		}
	}
	return all
}
