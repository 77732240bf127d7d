package docwalk

import (
	"maps"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// Variables returns the names of the variables that the commands use and do not set, sorted.
func (p *Page) Variables() ([]string, error) {
	used, set := map[string]bool{}, map[string]bool{}
	for _, s := range p.steps {
		file, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(s.command), "")
		if err != nil {
			return nil, p.errorf(s.line, "invalid shell command: %w", err)
		}
		syntax.Walk(file, func(node syntax.Node) bool {
			switch node := node.(type) {
			case *syntax.ParamExp:
				if syntax.ValidName(node.Param.Value) { // not $1 or $?
					used[node.Param.Value] = true
				}
			case *syntax.CallExpr:
				if len(node.Args) == 0 { // otherwise, they are set only for the command
					addNames(set, node.Assigns)
				}
			case *syntax.WordIter: // for
				set[node.Name.Value] = true
			case *syntax.DeclClause: // export
				addNames(set, node.Args)
			}
			return true
		})
	}
	maps.DeleteFunc(used, func(name string, _ bool) bool { return set[name] })
	return slices.Sorted(maps.Keys(used)), nil
}

func addNames(names map[string]bool, assigns []*syntax.Assign) {
	for _, a := range assigns {
		if a.Name != nil {
			names[a.Name.Value] = true
		}
	}
}
