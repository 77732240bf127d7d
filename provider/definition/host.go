package definition

import (
	"fmt"
	"regexp/syntax"
	"strings"
	"unicode"
)

// checkInHost returns an error if values of the field could change the host of a URL.
func (f *field) checkInHost() error {
	switch {
	case !f.isText():
		return fmt.Errorf("{%s} is part of a host, so the field must be a string", f.name)
	case len(f.Allowed) > 0:
		return f.checkAllowedInHost()
	case f.pattern == nil:
		return fmt.Errorf("{%s} is part of a host, so the field needs a pattern", f.name)
	}
	parsed, err := syntax.Parse(f.Pattern, syntax.Perl)
	if err != nil {
		return err
	}
	if r, breaks := breaker(parsed); breaks {
		return fmt.Errorf("{%s} is part of a host, so the field's pattern must not allow %q, only letters and digits of ASCII, \"-\", \"_\" and \".\"", f.name, r)
	}
	return nil
}

func (f *field) checkAllowedInHost() error {
	for _, value := range f.Allowed {
		if i := strings.IndexFunc(value, func(r rune) bool { return !inHost(r) }); i >= 0 {
			return fmt.Errorf("{%s} is part of a host, so the value %q cannot be allowed", f.name, value)
		}
	}
	return nil
}

// inHost reports whether a character can be part of a host, and neither ends it nor begins another.
func inHost(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_.", r)
}

// breaker returns a character that an expression matches and that cannot be part of a host.
func breaker(e *syntax.Regexp) (r rune, breaks bool) {
	switch e.Op {
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return '/', true
	case syntax.OpLiteral:
		for _, r := range e.Rune {
			for folded := r; ; {
				if !inHost(folded) {
					return folded, true
				}
				if e.Flags&syntax.FoldCase == 0 {
					break
				}
				if folded = unicode.SimpleFold(folded); folded == r {
					break
				}
			}
		}
	case syntax.OpCharClass:
		for i := 0; i < len(e.Rune); i += 2 {
			for r := e.Rune[i]; r <= e.Rune[i+1]; r++ {
				if !inHost(r) {
					return r, true
				}
			}
		}
	}
	for _, sub := range e.Sub {
		if r, breaks := breaker(sub); breaks {
			return r, true
		}
	}
	return 0, false
}
