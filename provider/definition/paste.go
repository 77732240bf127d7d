package definition

import (
	"regexp"
	"slices"
	"strings"
)

// find returns the value of a field from what an operator gave, which may also be a host or a URL that
// contains the value. The result need not match the field's pattern.
func (d *Definition) find(f *field, given string) (string, bool) {
	text := strings.TrimSpace(given)
	for _, scheme := range []string{"https://", "http://"} {
		if len(text) > len(scheme) && strings.EqualFold(text[:len(scheme)], scheme) {
			text = text[len(scheme):]
		}
	}
	text = strings.TrimSuffix(text, "/")
	templates := d.urls()
	for _, template := range templates {
		if match := f.inPath(template).FindStringSubmatch(text); match != nil {
			return match[1], true
		}
	}
	if f.pattern.MatchString(text) {
		return text, true
	}
	end := strings.IndexAny(text+"/", "/?#")
	host, isURL := strings.ToLower(text[:end]), end < len(text)
	for _, suffix := range f.suffixes(templates) {
		if value, found := strings.CutSuffix(host, suffix); found {
			return value, true
		}
	}
	if isURL && f.pattern.MatchString(host) && beginsHost(f, templates) {
		return host, true
	}
	if lower := strings.ToLower(text); !isURL && f.pattern.MatchString(lower) {
		return lower, true
	}
	return "", false
}

// urls returns the templates of all URLs.
func (d *Definition) urls() []string {
	urls := []string{d.TokenURL}
	for _, g := range d.Grants {
		for _, request := range []*Request{g.Request, g.Refresh} {
			if request != nil {
				urls = append(urls, request.URL)
			}
		}
		for _, step := range g.Before {
			urls = append(urls, step.Request.URL)
		}
	}
	if d.Authorization != nil {
		urls = append(urls, d.Authorization.URL, d.Authorization.DeviceURL)
	}
	if d.Revocation != nil {
		urls = append(urls, d.Revocation.URL)
	}
	return slices.DeleteFunc(urls, func(url string) bool { return url == "" })
}

// suffixes returns what follows the field's value in hosts, the longest first.
func (f *field) suffixes(templates []string) []string {
	suffixes := slices.Clone(f.HostSuffixes)
	for _, template := range templates {
		if suffix, begins := strings.CutPrefix(hostOf(template), "{"+f.name+"}"); begins && suffix != "" {
			suffixes = append(suffixes, suffix)
		}
	}
	slices.SortFunc(suffixes, func(a, b string) int { return len(b) - len(a) })
	return suffixes
}

// beginsHost reports whether the field is all of a host.
func beginsHost(f *field, templates []string) bool {
	return slices.ContainsFunc(templates, func(template string) bool { return hostOf(template) == "{"+f.name+"}" })
}

// hostOf returns the host of a URL template.
func hostOf(template string) string {
	_, rest, _ := strings.Cut(template, "://")
	host, _, _ := strings.Cut(rest, "/")
	return host
}

var (
	placeholder = regexp.MustCompile(`\{[a-z0-9_|]+\}`)

	// never matches nothing.
	never = regexp.MustCompile(`[^\s\S]`)
)

// inPath returns an expression for the beginning of a URL without its scheme, if the template has the
// field in its path. The first group matches the field's value.
func (f *field) inPath(template string) *regexp.Regexp {
	template = strings.TrimPrefix(template, "https://")
	slash, at := strings.Index(template, "/"), strings.Index(template, "{"+f.name+"}")
	if slash < 0 || at < slash {
		return never
	}
	var pattern strings.Builder
	pattern.WriteString("^")
	for _, literal := range placeholder.Split(template[:at], -1) {
		pattern.WriteString(regexp.QuoteMeta(literal) + "[^/]+")
	}
	return regexp.MustCompile(strings.TrimSuffix(pattern.String(), "[^/]+") + "(" + f.Pattern + ")(?:[/?#]|$)")
}
