package docwalk

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/parser"
	"github.com/yuin/goldmark/text"

	"github.com/yuin/goldmark"
)

// BrokenLinks returns the links of a page to files or headings of the same tree that do not
// exist, and its images that do not exist or have no text in their place. It does not follow links
// to other hosts.
func BrokenLinks(tree fs.FS, page string) ([]string, error) {
	document, err := document(tree, page)
	if err != nil {
		return nil, err
	}
	var broken []string
	err = ast.Walk(document, func(node ast.Node, entering bool) (ast.WalkStatus, error) {
		destination := ""
		switch node := node.(type) {
		case *ast.Link:
			destination = string(node.Destination)
		case *ast.Image:
			destination = string(node.Destination)
			if entering && !node.HasChildren() {
				broken = append(broken, fmt.Sprintf("%s: %s: no alternative text", page, destination))
			}
		}
		if destination == "" || !entering || strings.Contains(destination, "://") {
			return ast.WalkContinue, nil
		}
		file, heading, _ := strings.Cut(destination, "#")
		target := page
		if file != "" {
			target = path.Join(path.Dir(page), file)
		}
		if _, err := fs.Stat(tree, target); err != nil {
			broken = append(broken, fmt.Sprintf("%s: %s: file not found", page, destination))
		} else if heading != "" && !hasHeading(tree, target, heading) {
			broken = append(broken, fmt.Sprintf("%s: %s: heading not found", page, destination))
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

// Order returns the pages that a section of an index links to, each once and in order. The section
// includes its subsections.
func Order(tree fs.FS, index, section string) ([]string, error) {
	document, err := document(tree, index)
	if err != nil {
		return nil, err
	}
	markdown, err := fs.ReadFile(tree, index)
	if err != nil {
		return nil, err
	}
	var pages []string
	level := 0 // of the section, or 0 outside of it
	err = ast.Walk(document, func(node ast.Node, entering bool) (ast.WalkStatus, error) {
		switch node := node.(type) {
		case *ast.Heading:
			switch {
			case string(node.Lines().Value(markdown)) == section:
				level = node.Level
			case node.Level <= level:
				level = 0
			}
		case *ast.Link:
			file, _, _ := strings.Cut(string(node.Destination), "#")
			page := path.Join(path.Dir(index), file)
			if entering && level > 0 && path.Ext(file) == ".md" && !strings.Contains(file, "://") && !slices.Contains(pages, page) {
				pages = append(pages, page)
			}
		}
		return ast.WalkContinue, nil
	})
	return pages, err
}
