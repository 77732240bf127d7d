package oauth2

import (
	"regexp"
	"slices"
	"strings"

	"vault-plugin-secrets-tokenbroker/provider"
)

// value returns the value of a parameter from what the operator gave, which may also be a host
// or a URL that contains the value. Its error is of kind Invalid.
func (p Preset) value(param Param, given string) (string, error) {
	if value, found := p.find(param, given); found && param.whole.MatchString(value) {
		return value, nil
	}
	fix := "give " + param.Description
	if len(p.suffixes(param)) > 0 {
		fix += "; if your account has another host, set token_url instead of the preset"
	}
	return "", provider.Errorf(provider.Invalid, "preset_params: invalid %s %s for the preset %s; %s", param.Name, provider.Quote(given), p.Name, fix)
}

// find extracts the value of a parameter from what the operator gave. The result need not
// match the parameter's pattern.
func (p Preset) find(param Param, given string) (string, bool) {
	text := strings.TrimSpace(given)
	for _, scheme := range []string{"https://", "http://"} {
		if len(text) > len(scheme) && strings.EqualFold(text[:len(scheme)], scheme) {
			text = text[len(scheme):]
		}
	}
	text = strings.TrimSuffix(text, "/")
	for _, template := range p.allTemplates() {
		if match := param.inPath(template).FindStringSubmatch(text); match != nil {
			return match[1], true
		}
	}
	end := strings.IndexAny(text+"/", "/?#")
	host, isURL := strings.ToLower(text[:end]), end < len(text)
	for _, suffix := range p.suffixes(param) {
		if value, found := strings.CutSuffix(host, suffix); found {
			return value, true
		}
	}
	if isURL || slices.ContainsFunc(p.allTemplates(), func(template string) bool { return hostOf(template) == host }) {
		return "", false
	}
	if lower := strings.ToLower(text); !param.whole.MatchString(text) && param.whole.MatchString(lower) {
		return lower, true
	}
	return text, true
}

// suffixes returns what follows a parameter's value in the vendor's hosts, the longest first.
// It returns none if no host begins with the value.
func (p Preset) suffixes(param Param) []string {
	suffixes := slices.Clone(param.HostSuffixes)
	for _, template := range p.allTemplates() {
		if suffix, begins := strings.CutPrefix(hostOf(template), "{"+param.Name+"}"); begins && suffix != "" {
			suffixes = append(suffixes, suffix)
		}
	}
	slices.SortFunc(suffixes, func(a, b string) int { return len(b) - len(a) })
	return suffixes
}

// hostOf returns the host of a URL template.
func hostOf(template string) string {
	host, _, _ := strings.Cut(strings.TrimPrefix(template, "https://"), "/")
	return host
}

// allTemplates returns the templates that the preset has or had.
func (p Preset) allTemplates() []string { return append(p.templates(), p.dropped...) }

// never matches nothing.
var never = regexp.MustCompile(`[^\s\S]`)

// inPath returns an expression for the beginning of a URL without its scheme, if the template
// has the parameter in its path. The first group matches the parameter's value.
func (p Param) inPath(template string) *regexp.Regexp {
	template = strings.TrimPrefix(template, "https://")
	slash, at := strings.Index(template, "/"), strings.Index(template, "{"+p.Name+"}")
	if slash < 0 || at < slash {
		return never
	}
	var pattern strings.Builder
	pattern.WriteString("^")
	before := template[:at]
	for _, literal := range placeholder.Split(before, -1) {
		pattern.WriteString(regexp.QuoteMeta(literal) + "[^/]+")
	}
	return regexp.MustCompile(strings.TrimSuffix(pattern.String(), "[^/]+") + "(" + p.Pattern + ")(?:[/?#]|$)")
}
