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
	// minRun is the length of the shortest part of a secret, or of one of its encodings,
	// that is masked, in consecutive letters and digits.
	minRun = 8

	// minEncoded is the length in bytes of the shortest secret whose encodings are masked.
	// Those of a shorter one may occur in any word.
	minEncoded = 4

	// maxEscaped is the length in bytes of the longest secret in which escapes are undone.
	// Longer secrets are tokens, whose encoding needs no escapes.
	maxEscaped = 8 << 10

	// maxEscapes is the number of layers of escapes that are undone.
	maxEscapes = 2
)

// maskSecrets masks every secret in a text, and every part of one with at least minRun
// letters and digits. It finds a secret in any case, with separators in it, with HTML, JSON
// or URL escapes, and in base64 and hexadecimal.
func maskSecrets(text string, secrets []string) string {
	hidden := make([]bool, len(text))
	whole, bare := search{hidden: hidden}, search{hidden: hidden}
	layer := glyphsOf(text)
	for range maxEscapes + 1 {
		whole.spellings = append(whole.spellings, spell(layer, isSeparator))
		bare.spellings = append(bare.spellings, spell(layer, isSeparatorOrSign))
		next := unescape(layer)
		if len(next) == len(layer) { // no escapes: they are longer than their characters
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

// replaceHidden replaces each run of hidden bytes by one mask.
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

// A glyph is a character and the range of bytes in the text that it stands for.
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

// escape matches an HTML entity, or an escape of JSON or of a URL.
var escape = regexp.MustCompile(`&#?[0-9A-Za-z]{1,32};|\\u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2}|%[0-9A-Fa-f]{2}|\\`)

// unescape undoes one layer of escapes.
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

// unescaped returns what an escape stands for; "" for a single backslash.
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

// A spelling is a text in lower case without some of its characters.
type spelling struct {
	text string
	at   []glyph // the glyph of each byte
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

// plain returns a secret in lower case, without the characters that leaveOut selects.
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

// plainASCII is a faster plain for ASCII, which tokens are.
func plainASCII(secret string, leaveOut func(rune) bool) (spelled string, isASCII bool) {
	var to [utf8.RuneSelf]byte // 0 for characters to leave out
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

// isSeparator reports whether a character may have been inserted into a secret, such as a
// line break.
func isSeparator(r rune) bool { return unicode.IsSpace(r) || !unicode.IsGraphic(r) }

func isSeparatorOrSign(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }

// A search finds secrets in the spellings of a text and hides them. Secrets may be a thousand
// times as long as the text, so it indexes the runs of the text and not of the secrets.
type search struct {
	spellings []spelling
	hidden    []bool

	runs   map[uint64][]place
	sieve  []uint64 // a bit per hash of a run; most runs of a secret have none set
	shifts int
}

// A place is the position of a run in a spelling.
type place struct{ spelling, at int }

// index indexes the runs of minRun bytes in the text.
func (s *search) index() {
	s.runs = map[uint64][]place{}
	for i, spelled := range s.spellings {
		for at := 0; at+minRun <= len(spelled.text); at++ {
			run := binary.LittleEndian.Uint64([]byte(spelled.text[at : at+minRun]))
			s.runs[run] = append(s.runs[run], place{i, at})
		}
	}
	width := bits.Len(uint(len(s.runs))) + 6 // at least 32 bits per run
	s.sieve, s.shifts = make([]uint64, 1<<(width-6)), 64-width
	for run := range s.runs {
		bit := s.hash(run)
		s.sieve[bit/64] |= 1 << (bit % 64)
	}
}

func (s *search) hash(run uint64) uint64 { return run * 0x9e3779b97f4a7c15 >> s.shifts }

// hide hides each run of minRun bytes that the text shares with a form of a secret.
func (s *search) hide(form string) {
	if s.runs == nil {
		s.index()
	}
	var run uint64
	for i := range len(form) {
		run = run>>8 | uint64(form[i])<<56
		if bit := s.hash(run); i+1 < minRun || s.sieve[bit/64]&(1<<(bit%64)) == 0 {
			continue
		}
		found, isThere := s.runs[run]
		if !isThere || isVocabulary(form[i+1-minRun:i+1]) { // the cheaper test first
			continue
		}
		for _, p := range found {
			s.spellings[p.spelling].hideRange(p.at, p.at+minRun, s.hidden)
		}
		delete(s.runs, run) // now hidden
	}
}

// hideShort hides each occurrence of a form that is shorter than a run.
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

// vocabulary has terms of OAuth 2.0 that are not masked. Vendors' messages use them, and some
// secrets contain one as a label: "the refresh token is not accepted" exposes nothing.
const vocabulary = "accesstoken apikey authorization clientassertion clientcredentials clientid clientsecret password privatekey refreshtoken"

func isVocabulary(run string) bool {
	letters := plain(run, isSeparatorOrSign)
	return len(letters) >= minRun-2 && strings.Contains(vocabulary, letters)
}

// indexes yields the positions of a word in a text.
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

// hideRange hides the part of the text that the bytes [from, to) of the spelling stand for,
// including the characters that were left out within it.
func (s spelling) hideRange(from, to int, hidden []bool) {
	for i := s.at[from].from; i < s.at[to-1].to; i++ {
		hidden[i] = true
	}
}

// escapedForms returns a secret, and the secret with whatever looks like an escape undone.
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

// encodings returns the encodings of a secret that do not show its characters: hexadecimal,
// and base64 at any offset within a longer text. HTTP Basic encodes the secret with URL
// escapes, so these are included.
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
			// The first characters also encode what precedes the secret, and the last
			// one what follows it.
			start, end := before+min(before, 1), len(encoded)
			if (before+len(text))%3 != 0 {
				end--
			}
			forms = append(forms, encoded[start:end])
		}
	}
	return forms
}
