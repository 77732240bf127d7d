package docwalk

import (
	"regexp"
	"strings"
)

// match is whether a command printed what a page shows: all of it, word by word, in
// order, however it is spaced. But
//
//   - a word with a digit or "..." in it stands for any word, since tokens, times
//     and leases hold digits; if it has slashes, each of its parts so stands for
//     itself (kensho/creds/prod/sPrTnh7b is any lease of kensho/creds/prod);
//   - a number of up to three digits, which is a count or a status, is itself, and so is
//     a version like v1.2.3;
//   - the word "..." stands for any words, and so for any lines.
//
// "…" is as good as "...". A page that shows nothing says nothing.
func match(shown, printed string) bool {
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
