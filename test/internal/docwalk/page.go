// Package docwalk tests a page of documentation: it runs the page's commands in order, as
// written, and compares their output with the output that the page shows. In a page's Markdown:
//
//   - A fenced block of the language console contains commands and their output. A command
//     begins on a line with the prompt "$ ", and continues for as long as a shell would ask
//     for more input. The output below it is optional; match defines how it is compared. A
//     command whose shown output begins with "Error " must fail, and any other must succeed.
//     A command that ends in "&" runs until the end of the page.
//   - A console block with the word setup after its language makes what the page starts from. A
//     reader who comes from an earlier page has that already, and skips the block. The paragraph
//     above it says so, with the words "Skip this if".
//   - A console block with the word cluster needs a Kubernetes cluster.
//   - A console block with the word package needs the Debian package of a release.
//   - A fenced block with file=NAME after its language is the content of a file that the
//     commands below it can use. The paragraph above it names the file in backquotes, because
//     GitHub does not show what follows the language.
//   - Other fenced blocks are not run, and must not contain commands.
package docwalk

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/text"
	"mvdan.cc/sh/v3/syntax"
)

// A Page is the sequence of steps that a page tells its reader to do.
type Page struct {
	name  string
	steps []step
}

// A step is a command to run or, if file is set, a file to write.
type step struct {
	line int // of the page

	command    string
	background bool   // the command ends in &
	shown      string // output that the page shows
	kind       string // Setup, Cluster or Package, if the command is in such a block

	file, content string
}

// The kinds of console blocks that not every walk runs.
const (
	Setup   = "setup"
	Cluster = "cluster"
	Package = "package"
)

// Parse parses the Markdown of a page. Its errors begin with the name of the page and the line.
func Parse(name string, markdown []byte) (*Page, error) {
	p := &Page{name: name}
	document := goldmark.DefaultParser().Parse(text.NewReader(markdown))
	err := ast.Walk(document, func(node ast.Node, entering bool) (ast.WalkStatus, error) {
		block, isFence := node.(*ast.FencedCodeBlock)
		if !isFence || !entering || block.Lines().Len() == 0 {
			return ast.WalkContinue, nil
		}
		first := 1 + strings.Count(string(markdown[:block.Lines().At(0).Start]), "\n")
		lines := slices.Collect(strings.Lines(string(block.Lines().Value(markdown))))
		return ast.WalkContinue, p.fence(block, markdown, first, lines)
	})
	return p, err
}

// Commands returns the number of commands.
func (p *Page) Commands() int {
	commands := 0
	for _, s := range p.steps {
		if s.file == "" {
			commands++
		}
	}
	return commands
}

// Only returns the commands of the page in blocks of a kind.
func (p *Page) Only(kind string) *Page {
	return &Page{name: p.name, steps: slices.DeleteFunc(slices.Clone(p.steps), func(s step) bool { return s.kind != kind })}
}

// Without returns the page without its blocks of a kind: Setup for a reader who comes from an earlier page, Cluster for
// one without a Kubernetes cluster, or Package for one without a release.
func (p *Page) Without(kind string) *Page {
	return &Page{name: p.name, steps: slices.DeleteFunc(slices.Clone(p.steps), func(s step) bool { return s.kind == kind })}
}

// fence parses a fenced block whose content begins at line first of the page.
func (p *Page) fence(block *ast.FencedCodeBlock, markdown []byte, first int, lines []string) error {
	info := strings.Fields(string(block.Info.Value(markdown)))
	if string(block.Language(markdown)) == "console" {
		kind := ""
		for _, word := range []string{Setup, Cluster, Package} {
			if slices.Contains(info, word) {
				kind = word
			}
		}
		if kind == Setup && !strings.Contains(paragraphAbove(block, markdown), "Skip this if ") {
			return p.errorf(first-1, `the paragraph above a setup block must say "Skip this if"`)
		}
		return p.console(first, lines, kind)
	}
	for i, line := range lines {
		if strings.HasPrefix(line, prompt) {
			return p.errorf(first+i, "a command outside a console block is not run: %s", line)
		}
	}
	for _, word := range info {
		if file, isFile := strings.CutPrefix(word, "file="); isFile {
			if !filepath.IsLocal(file) {
				return p.errorf(first-1, "%q is not a path below the working directory", file)
			}
			if !names(paragraphAbove(block, markdown), file) {
				return p.errorf(first-1, "the paragraph above must name the file: `%s`", file)
			}
			p.steps = append(p.steps, step{line: first, file: file, content: strings.Join(lines, "")})
		}
	}
	return nil
}

// paragraphAbove returns the words of the paragraph or list item above a block with an info string.
func paragraphAbove(block *ast.FencedCodeBlock, markdown []byte) string {
	above := string(markdown[:block.Info.Segment.Start])
	above = strings.TrimSpace(above[:strings.LastIndex(above, "\n")+1])
	return strings.Join(strings.Fields(above[strings.LastIndex(above, "\n\n")+1:]), " ")
}

// names reports whether a text has the name of a file in backquotes, with or without its folder.
func names(text, file string) bool {
	return strings.Contains(text, "`"+file+"`") || strings.Contains(text, "`"+filepath.Base(file)+"`")
}

const prompt = "$ "

func (p *Page) console(first int, lines []string, kind string) error {
	for i := 0; i < len(lines); {
		s := step{line: first + i, kind: kind}
		if !strings.HasPrefix(lines[i], prompt) {
			return p.errorf(s.line, "output without a command above it: %s", lines[i])
		}
		count, background, err := command(lines[i:])
		if err != nil {
			return p.errorf(s.line, "invalid shell command: %w", err)
		}
		s.command = strings.TrimPrefix(strings.Join(lines[i:i+count], ""), prompt)
		s.background = background
		for i += count; i < len(lines) && !strings.HasPrefix(lines[i], prompt); i++ {
			s.shown += lines[i]
		}
		if background && strings.TrimSpace(s.shown) != "" {
			return p.errorf(s.line, "a background command must not show output")
		}
		p.steps = append(p.steps, s)
	}
	return nil
}

// command returns the number of lines of the command that begins on the first line, and whether
// it runs in the background. The command ends with the first line at which it is complete.
func command(lines []string) (count int, background bool, err error) {
	parser := syntax.NewParser(syntax.Variant(syntax.LangBash))
	for count = 1; count <= len(lines); count++ {
		text := strings.TrimPrefix(strings.Join(lines[:count], ""), prompt)
		file, parseErr := parser.Parse(strings.NewReader(text), "")
		if strings.HasSuffix(text, "\\\n") {
			parseErr = errors.New("nothing follows the backslash")
		}
		if parseErr == nil {
			last := len(file.Stmts) - 1
			return count, last >= 0 && file.Stmts[last].Background, nil
		}
		if err == nil {
			err = parseErr // later lines may not be part of the command
		}
	}
	return 0, false, err
}

func (p *Page) errorf(line int, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %w", p.name, line, fmt.Errorf(format, args...))
}
