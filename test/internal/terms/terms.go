// Package terms finds the terms in Go files that the table in CONTRIBUTING.md replaces by others.
// Vale reads only the comments of Go files. This package reads their string literals, and the names
// that tests declare.
package terms

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"gopkg.in/yaml.v3"
)

// A Style is a set of terms to replace, as in a file of Vale's extension point substitution.
type Style struct {
	terms      *regexp.Regexp // a group for each term
	exceptions *regexp.Regexp // phrases that may contain a term; nil if there are none
	instead    []string       // what to write, by the group of the term
}

// Load reads all styles of a folder.
func Load(dir string) ([]Style, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.yml"))
	if err != nil {
		return nil, err
	}
	var styles []Style
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		style, err := parse(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		styles = append(styles, style)
	}
	return styles, nil
}

func parse(text []byte) (Style, error) {
	var file struct {
		Extends    string
		Swap       map[string]string
		Exceptions []string
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		return Style{}, err
	}
	if file.Extends != "substitution" {
		return Style{}, fmt.Errorf("extends: %q is not supported, only substitution", file.Extends)
	}
	// Like Vale, prefer the longest of the patterns that match.
	var patterns []string
	for pattern := range file.Swap {
		patterns = append(patterns, pattern)
	}
	slices.SortFunc(patterns, func(a, b string) int { return len(b) - len(a) })
	var style Style
	for _, pattern := range patterns {
		style.instead = append(style.instead, file.Swap[pattern])
	}
	var err error
	if style.terms, err = regexp.Compile(`(?i)\b(?:(` + strings.Join(patterns, ")|(") + `))\b`); err != nil {
		return Style{}, err
	}
	if got := style.terms.NumSubexp(); got != len(patterns) {
		return Style{}, fmt.Errorf("swap: %d groups in %d patterns; use (?:…)", got-len(patterns), len(patterns))
	}
	if len(file.Exceptions) > 0 {
		style.exceptions, err = regexp.Compile(`\b(?:` + strings.Join(file.Exceptions, "|") + `)\b`)
	}
	return style, err
}

// find returns the terms in a text, each with what to write instead.
func (s Style) find(text string) []string {
	var found []string
	for _, match := range s.terms.FindAllStringSubmatchIndex(text, -1) {
		begin, end := match[0], match[1]
		if s.allows(text, begin, end) {
			continue
		}
		for i, instead := range s.instead {
			if match[2+2*i] >= 0 {
				found = append(found, fmt.Sprintf("write %q instead of %q", instead, text[begin:end]))
			}
		}
	}
	return found
}

// allows reports whether an exception contains the given part of a text.
func (s Style) allows(text string, begin, end int) bool {
	if s.exceptions == nil {
		return false
	}
	for _, at := range s.exceptions.FindAllStringIndex(text, -1) {
		if at[0] <= begin && end <= at[1] {
			return true
		}
	}
	return false
}

// Check returns the terms in the string literals of a Go file and, with names, in the names that it
// declares. Each begins with the name and the line of the file.
func Check(styles []Style, name string, source []byte, names bool) ([]string, error) {
	positions := token.NewFileSet()
	file, err := parser.ParseFile(positions, name, source, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var found []string
	check := func(at token.Pos, text string) {
		for _, style := range styles {
			for _, term := range style.find(text) {
				found = append(found, fmt.Sprintf("%s:%d: %s: %s", name, positions.Position(at).Line, term, text))
			}
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec:
			return false
		case *ast.BasicLit:
			if n.Kind == token.STRING {
				text, _ := strconv.Unquote(n.Value) // valid, as the file has been parsed
				check(n.Pos(), text)
			}
		}
		if names {
			for _, declared := range declaredBy(n) {
				check(declared.Pos(), words(declared.Name))
			}
		}
		return true
	})
	return found, nil
}

// declaredBy returns the names that a node declares.
func declaredBy(n ast.Node) []*ast.Ident {
	switch n := n.(type) {
	case *ast.FuncDecl:
		return []*ast.Ident{n.Name}
	case *ast.TypeSpec:
		return []*ast.Ident{n.Name}
	case *ast.ValueSpec:
		return n.Names
	case *ast.Field:
		return n.Names
	case *ast.AssignStmt:
		if n.Tok == token.DEFINE {
			return identifiers(n.Lhs...)
		}
	case *ast.RangeStmt:
		if n.Tok == token.DEFINE {
			return identifiers(n.Key, n.Value)
		}
	}
	return nil
}

func identifiers(expressions ...ast.Expr) []*ast.Ident {
	var names []*ast.Ident
	for _, e := range expressions {
		if name, isName := e.(*ast.Ident); isName {
			names = append(names, name)
		}
	}
	return names
}

// words returns the words of a name: "the ttl is short" for TheTTLIsShort.
func words(name string) string {
	var text strings.Builder
	letters := []rune(name)
	for i, r := range letters {
		if i > 0 {
			last, isLast := letters[i-1], i == len(letters)-1
			if unicode.IsDigit(r) != unicode.IsDigit(last) ||
				unicode.IsUpper(r) && (!unicode.IsUpper(last) || !isLast && unicode.IsLower(letters[i+1])) {
				text.WriteByte(' ')
			}
		}
		text.WriteRune(unicode.ToLower(r))
	}
	return strings.ReplaceAll(text.String(), "_", " ")
}
