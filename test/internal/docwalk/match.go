package docwalk

import (
	"regexp"
	"strings"
)

// match reports whether the output of a command matches what a page shows. It compares the two
// word by word and ignores the amount of white space, with these exceptions:
//
//   - A shown word that contains a digit or "..." matches any word, because tokens, times and
//     leases contain digits. If the word contains slashes, this applies to each part between
//     them: kensho/creds/prod/sPrTnh7b matches any lease of kensho/creds/prod.
//   - A number of up to three digits, such as a count or a status, matches only itself, and so
//     does a version like v1.2.3.
//   - The word "..." matches any number of words, and so any number of lines.
//
// "…" is the same as "...". If the page shows no output, any output matches. The lines in which the go
// command names what it downloads are not compared: a reader with empty caches sees them.
func match(shown, printed string) bool {
	printed = download.ReplaceAllString(printed, "")
	words := strings.Fields(strings.ReplaceAll(shown, "…", "..."))
	if len(words) == 0 {
		return true
	}
	var pattern strings.Builder
	for _, word := range words {
		if word == "..." {
			pattern.WriteString(`(\S+ )*`)
		} else {
			pattern.WriteString(wordPattern(word) + " ")
		}
	}
	all := regexp.MustCompile("^" + pattern.String() + "$")
	return all.MatchString(strings.Join(strings.Fields(printed), " ") + " ")
}

var (
	download    = regexp.MustCompile(`(?m)^go: downloading .*$`)
	smallNumber = regexp.MustCompile(`^\W*\d{1,3}\W*$`)
	version     = regexp.MustCompile(`^\W*v\d+\.\d+\.\d+\W*$`)
)

func wordPattern(word string) string {
	if smallNumber.MatchString(word) || version.MatchString(word) {
		return regexp.QuoteMeta(word)
	}
	parts := strings.Split(word, "/")
	for i, part := range parts {
		if strings.ContainsAny(part, "0123456789") || strings.Contains(part, "...") {
			parts[i] = `\S+`
		} else {
			parts[i] = regexp.QuoteMeta(part)
		}
	}
	return strings.Join(parts, "/")
}
