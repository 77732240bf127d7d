// Package docwalk does what a page of documentation says: it runs the page's
// commands in order, as written, and compares what they print with what the page
// shows. In a page's Markdown,
//
//   - a fence of the language console holds commands, each on a line that begins
//     with "$ " and going on for as long as a shell would ask for more, and below
//     each, if anything, what it prints (see match for what stands for what). A
//     command whose output is shown to begin with "Error " fails; any other
//     succeeds. One that ends in "&" runs until the page has ended;
//   - a fence with file=NAME after its language is the content of that file, which
//     is there for the commands below;
//   - other fences are not run, and hold no command.
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

// A Page is what a page has its reader do.
type Page struct {
	name  string
	steps []step
}

// step is a command to run or, if file is set, a file to write.
type step struct {
	line int // of the page

	command    string
	background bool   // ends in &
	shown      string // of its output

	file, content string
}

// Parse reads a page's Markdown. Its errors name the page and the line.
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

// Commands is how many there are.
func (p *Page) Commands() int {
	commands := 0
	for _, s := range p.steps {
		if s.file == "" {
			commands++
		}
	}
	return commands
}

// fence reads a fence whose content begins at line first of the page.
func (p *Page) fence(block *ast.FencedCodeBlock, markdown []byte, first int, lines []string) error {
	if string(block.Language(markdown)) == "console" {
		return p.console(first, lines)
	}
	for i, line := range lines {
		if strings.HasPrefix(line, prompt) {
			return p.errorf(first+i, "a command outside a console block is not run: %s", line)
		}
	}
	for _, word := range strings.Fields(string(block.Info.Value(markdown))) {
		if file, isFile := strings.CutPrefix(word, "file="); isFile {
			if !filepath.IsLocal(file) {
				return p.errorf(first-1, "%q is no file below the working directory", file)
			}
			p.steps = append(p.steps, step{line: first, file: file, content: strings.Join(lines, "")})
		}
	}
	return nil
}

const prompt = "$ "

func (p *Page) console(first int, lines []string) error {
	for i := 0; i < len(lines); {
		s := step{line: first + i}
		if !strings.HasPrefix(lines[i], prompt) {
			return p.errorf(s.line, "no command is above this output: %s", lines[i])
		}
		count, background, err := command(lines[i:])
		if err != nil {
			return p.errorf(s.line, "no shell takes this command: %w", err)
		}
		s.command = strings.TrimPrefix(strings.Join(lines[i:i+count], ""), prompt)
		s.background = background
		for i += count; i < len(lines) && !strings.HasPrefix(lines[i], prompt); i++ {
			s.shown += lines[i]
		}
		if background && strings.TrimSpace(s.shown) != "" {
			return p.errorf(s.line, "what runs in the background prints when it likes: show no output")
		}
		p.steps = append(p.steps, s)
	}
	return nil
}

// command is how many lines the command takes that begins with the first, which is as
// many as make it whole, and whether it goes on in the background.
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
			err = parseErr // what follows may be no part of it
		}
	}
	return 0, false, err
}

func (p *Page) errorf(line int, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %w", p.name, line, fmt.Errorf(format, args...))
}
