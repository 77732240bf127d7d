package docwalk

import (
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/parser"
	"github.com/yuin/goldmark/text"

	"github.com/yuin/goldmark"
)

// BrokenLinks are the links of a page to files and headings of the same tree that are
// not there. Links to other hosts are not followed.
func BrokenLinks(tree fs.FS, page string) ([]string, error) {
	document, err := document(tree, page)
	if err != nil {
		return nil, err
	}
	var broken []string
	err = ast.Walk(document, func(node ast.Node, entering bool) (ast.WalkStatus, error) {
		link, isLink := node.(*ast.Link)
		if !isLink || !entering || strings.Contains(string(link.Destination), "://") {
			return ast.WalkContinue, nil
		}
		file, heading, _ := strings.Cut(string(link.Destination), "#")
		target := page
		if file != "" {
			target = path.Join(path.Dir(page), file)
		}
		if _, err := fs.Stat(tree, target); err != nil {
			broken = append(broken, fmt.Sprintf("%s: %s: there is no such file", page, link.Destination))
		} else if heading != "" && !hasHeading(tree, target, heading) {
			broken = append(broken, fmt.Sprintf("%s: %s: there is no such heading", page, link.Destination))
		}
		return ast.WalkContinue, nil
	})
	return broken, err
}

func document(tree fs.FS, page string) (ast.Node, error) {
	markdown, err := fs.ReadFile(tree, page)
	if err != nil {
		return nil, err
	}
	headings := goldmark.New(goldmark.WithParserOptions(parser.WithAutoHeadingID()))
	return headings.Parser().Parse(text.NewReader(markdown)), nil
}

func hasHeading(tree fs.FS, page, id string) bool {
	document, err := document(tree, page)
	if err != nil {
		return false
	}
	found := false
	_ = ast.Walk(document, func(node ast.Node, entering bool) (ast.WalkStatus, error) {
		if heading, isHeading := node.(*ast.Heading); isHeading && entering {
			value, _ := heading.AttributeString("id")
			given, _ := value.([]byte)
			found = found || string(given) == id
		}
		return ast.WalkContinue, nil
	})
	return found
}
