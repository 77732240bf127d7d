package provider

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"html"
	"iter"
	"math/bits"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// minRun is how many letters and digits of a secret in a row, or of one of its
	// encodings, give it away.
	minRun = 8

	// minEncoded is how many bytes a secret has at least whose encodings are looked for.
	// Those of less may be in any word.
	minEncoded = 4

	// maxEscaped is how long a secret may be in which escapes are looked for. Longer ones are
	// tokens, which are encoded so that they need none.
	maxEscaped = 8 << 10

	// maxEscapes is how often what a vendor repeats may have been escaped.
	maxEscapes = 2
)

// maskSecrets puts a mask in the place of every secret in a text, and of every part of one
// of minRun letters and digits or more. A secret is found in any case, with separators in
// it, escaped as in HTML, JSON and URLs, and in base64 and hexadecimal digits.
func maskSecrets(text string, secrets []string) string {
	hidden := make([]bool, len(text))
	whole, bare := search{hidden: hidden}, search{hidden: hidden}
	layer := glyphsOf(text)
	for range maxEscapes + 1 {
		whole.spellings = append(whole.spellings, spell(layer, isSeparator))
		bare.spellings = append(bare.spellings, spell(layer, isSeparatorOrSign))
		next := unescape(layer)
		if len(next) == len(layer) { // an escape is longer than what it stands for
			break
		}
		layer = next
	}
	for _, secret := range secrets {
		for _, form := range escapedForms(secret) {
			whole.hide(plain(form, isSeparator))
			whole.hideShort(plain(form, isSeparator))
			bare.hide(plain(form, isSeparatorOrSign))
		}
		for _, form := range encodings(secret) {
			whole.hideShort(plain(form, isSeparator))
			bare.hide(plain(form, isSeparatorOrSign))
		}
	}
	return replaceHidden(text, hidden)
}

// replaceHidden puts one mask in the place of each stretch of hidden bytes.
func replaceHidden(text string, hidden []bool) string {
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		if !hidden[i] {
			out.WriteByte(text[i])
		} else if i == 0 || !hidden[i-1] {
			out.WriteString(mask)
		}
	}
	return out.String()
}

// A glyph is a character of a text, and which bytes of the text it stands for.
type glyph struct {
	char     rune
	from, to int
}

func glyphsOf(text string) []glyph {
	glyphs := make([]glyph, 0, len(text))
	for i, r := range text {
		_, size := utf8.DecodeRuneInString(text[i:])
		glyphs = append(glyphs, glyph{r, i, i + size})
	}
	return glyphs
}

// escape is an entity of HTML, or an escape of JSON or of a URL.
var escape = regexp.MustCompile(`&#?[0-9A-Za-z]{1,32};|\\u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2}|%[0-9A-Fa-f]{2}|\\`)

// unescape undoes one escape of each character that has one.
func unescape(glyphs []glyph) []glyph {
	var text strings.Builder
	var at []int // the glyph of each byte
	for i, g := range glyphs {
		n, _ := text.WriteRune(g.char)
		for range n {
			at = append(at, i)
		}
	}
	var plain []glyph
	next := 0
	for _, match := range escape.FindAllStringIndex(text.String(), -1) {
		first, last := at[match[0]], at[match[1]-1]
		plain = append(plain, glyphs[next:first]...)
		for _, r := range unescaped(text.String()[match[0]:match[1]]) {
			plain = append(plain, glyph{r, glyphs[first].from, glyphs[last].to})
		}
		next = last + 1
	}
	return append(plain, glyphs[next:]...)
}

// unescaped is what an escape stands for: nothing, if it is a backslash alone.
func unescaped(escape string) string {
	if escape[0] == '&' {
		return html.UnescapeString(escape)
	}
	code, err := strconv.ParseUint(strings.TrimLeft(escape, `\ux%`), 16, 32)
	if err != nil {
		return ""
	}
	return string(rune(code))
}

// A spelling is a text without some of its characters, in small letters.
type spelling struct {
	text string
	at   []glyph // of each byte
}

func spell(glyphs []glyph, leaveOut func(rune) bool) spelling {
	var text strings.Builder
	var at []glyph
	for _, g := range glyphs {
		if leaveOut(g.char) {
			continue
		}
		n, _ := text.WriteRune(unicode.ToLower(g.char))
		for range n {
			at = append(at, g)
		}
	}
	return spelling{text.String(), at}
}

// plain is the spelling of a secret.
func plain(secret string, leaveOut func(rune) bool) string {
	if spelled, isASCII := plainASCII(secret, leaveOut); isASCII {
		return spelled
	}
	return strings.Map(func(r rune) rune {
		if leaveOut(r) {
			return -1
		}
		return unicode.ToLower(r)
	}, secret)
}

// plainASCII is plain for what is all of ASCII, as tokens are.
func plainASCII(secret string, leaveOut func(rune) bool) (spelled string, isASCII bool) {
	var to [utf8.RuneSelf]byte // 0 leaves out
	for r := range rune(utf8.RuneSelf) {
		if !leaveOut(r) {
			to[r] = byte(unicode.ToLower(r))
		}
	}
	out := make([]byte, 0, len(secret))
	for i := range len(secret) {
		if secret[i] >= utf8.RuneSelf {
			return "", false
		}
		if c := to[secret[i]]; c != 0 {
			out = append(out, c)
		}
	}
	return string(out), true
}

// isSeparator is whether a character can stand in a secret without being of it.
func isSeparator(r rune) bool { return unicode.IsSpace(r) || !unicode.IsGraphic(r) }

func isSeparatorOrSign(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }

// A search looks for secrets in some spellings of a text, and hides what it finds. Secrets may
// be a thousand times as long as the text: it is the runs of the text that are looked up.
type search struct {
	spellings []spelling
	hidden    []bool

	runs   map[uint64][]place
	sieve  []uint64 // a bit for each run of the text, by its hash: most of a secret's have none
	shifts int
}

// A place is where a spelling has a run.
type place struct{ spelling, at int }

// read notes the runs of minRun bytes that the text has.
func (s *search) read() {
	s.runs = map[uint64][]place{}
	for i, spelled := range s.spellings {
		for at := 0; at+minRun <= len(spelled.text); at++ {
			run := binary.LittleEndian.Uint64([]byte(spelled.text[at : at+minRun]))
			s.runs[run] = append(s.runs[run], place{i, at})
		}
	}
	width := bits.Len(uint(len(s.runs))) + 6 // 32 bits a run, at least
	s.sieve, s.shifts = make([]uint64, 1<<(width-6)), 64-width
	for run := range s.runs {
		bit := s.hash(run)
		s.sieve[bit/64] |= 1 << (bit % 64)
	}
}

func (s *search) hash(run uint64) uint64 { return run * 0x9e3779b97f4a7c15 >> s.shifts }

// hide hides each run of minRun bytes that the text has of a form of a secret.
func (s *search) hide(form string) {
	if s.runs == nil {
		s.read()
	}
	var run uint64
	for i := range len(form) {
		run = run>>8 | uint64(form[i])<<56
		if bit := s.hash(run); i+1 < minRun || s.sieve[bit/64]&(1<<(bit%64)) == 0 {
			continue
		}
		found, isThere := s.runs[run]
		if !isThere || isVocabulary(form[i+1-minRun:i+1]) { // in this order, as tokens can be long
			continue
		}
		for _, p := range found {
			s.spellings[p.spelling].hideRange(p.at, p.at+minRun, s.hidden)
		}
		delete(s.runs, run) // which is hidden
	}
}

// hideShort hides a form that is shorter than a run, as a whole.
func (s *search) hideShort(form string) {
	if form == "" || len(form) >= minRun {
		return
	}
	for _, spelled := range s.spellings {
		for at := range indexes(spelled.text, form) {
			spelled.hideRange(at, at+len(form), s.hidden)
		}
	}
}

// vocabulary are words of OAuth 2.0, of which vendors speak, and which some secrets hold to
// say what they are: "the refresh token is not accepted" gives nothing away.
const vocabulary = "accesstoken apikey authorization clientassertion clientcredentials clientid clientsecret password privatekey refreshtoken"

func isVocabulary(run string) bool {
	letters := plain(run, isSeparatorOrSign)
	return len(letters) >= minRun-2 && strings.Contains(vocabulary, letters)
}

// indexes are where a text has a word.
func indexes(text, word string) iter.Seq[int] {
	return func(yield func(int) bool) {
		for from := 0; ; {
			i := strings.Index(text[from:], word)
			if i < 0 || !yield(from+i) {
				return
			}
			from += i + len(word)
		}
	}
}

// hideRange hides what the bytes from one to another stand for, and what was left out
// between.
func (s spelling) hideRange(from, to int, hidden []bool) {
	for i := s.at[from].from; i < s.at[to-1].to; i++ {
		hidden[i] = true
	}
}

// escapedForms are a secret, and what it would be if what looks like an escape in it were
// one.
func escapedForms(secret string) []string {
	forms := []string{secret}
	if len(secret) > maxEscaped || !strings.ContainsAny(secret, `&\%`) {
		return forms
	}
	glyphs := glyphsOf(secret)
	for range maxEscapes {
		glyphs = unescape(glyphs)
		var form strings.Builder
		for _, g := range glyphs {
			form.WriteRune(g.char)
		}
		if form.String() == forms[len(forms)-1] {
			break
		}
		forms = append(forms, form.String())
	}
	return forms
}

// encodings are the forms of a secret, and of what HTTP Basic makes of it, in which none of
// its characters can be seen: hexadecimal, and base64 wherever in a longer text it stands.
func encodings(secret string) []string {
	if len(secret) < minEncoded {
		return nil
	}
	forms := []string{hex.EncodeToString([]byte(secret))}
	sent := []string{secret}
	if escaped := url.QueryEscape(secret); len(secret) <= maxEscaped && escaped != secret {
		sent = append(sent, escaped)
	}
	for _, text := range sent {
		for before := range 3 {
			encoded := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat(" ", before) + text))
			// The first characters are also of what stands before, and the last of what
			// stands behind.
			start, end := before+min(before, 1), len(encoded)
			if (before+len(text))%3 != 0 {
				end--
			}
			forms = append(forms, encoded[start:end])
		}
	}
	return forms
}
