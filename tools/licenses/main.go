// Command licenses prints the licences and notices of the modules that are linked into a
// program for GOOS and GOARCH, and of Go itself. It prints identical texts once, below the
// names of all files that contain them.
//
//	licenses ./cmd/vault-plugin-secrets-tokenbroker >THIRD_PARTY_LICENSES
//
// The texts come from the versions of the modules that the program is built from, so the same
// go.sum gives the same bytes. A module without a licence is an error.
package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

func main() {
	if err := run(context.Background(), os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, packages []string) error {
	files, err := goLicences(ctx)
	if err != nil {
		return err
	}
	linked, err := modules(ctx, packages)
	if err != nil {
		return err
	}
	for _, m := range linked {
		found, err := m.licences()
		if err != nil {
			return err
		}
		files = append(files, found...)
	}
	return write(out, files)
}

// A module is a module with packages that are linked into the program.
type module struct {
	name     string // path and version
	dir      string
	packages []string // their directories
}

// modules returns the modules that packages depend on, except the main module, by name.
func modules(ctx context.Context, packages []string) ([]*module, error) {
	const format = "{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}}\t{{.Dir}}\t{{$.Dir}}{{end}}{{end}}"
	listed, err := golang(ctx, append([]string{"list", "-deps", "-f", format, "--"}, packages...)...)
	if err != nil {
		return nil, err
	}
	known := map[string]*module{}
	for line := range strings.Lines(listed) {
		fields := strings.Split(strings.TrimSpace(line), "\t")
		if len(fields) != 3 {
			continue // in the standard library or the main module
		}
		name, dir, in := fields[0], fields[1], fields[2]
		if known[name] == nil {
			known[name] = &module{name: name, dir: dir}
		}
		known[name].packages = append(known[name].packages, in)
	}
	return slices.SortedFunc(maps.Values(known), func(a, b *module) int { return cmp.Compare(a.name, b.name) }), nil
}

// golang runs the go command and returns its standard output.
func golang(ctx context.Context, args ...string) (string, error) {
	output, err := exec.CommandContext(ctx, "go", args...).Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		err = fmt.Errorf("go %s: %w\n%s", args[0], err, failed.Stderr)
	}
	return string(output), err
}

// A licence is the text of a licence, a notice or a patent grant, and the name of its file.
type licence struct{ of, text string }

// licences returns the licences of a module: those in its root, and those in every folder
// between the root and a linked package, where copied code has its own licence.
func (m *module) licences() ([]licence, error) {
	dirs := map[string]bool{m.dir: true}
	for _, dir := range m.packages {
		for ; len(dir) > len(m.dir); dir = filepath.Dir(dir) {
			dirs[dir] = true
		}
	}
	var found []licence
	licensed := false
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		in, err := licencesIn(dir)
		if err != nil {
			return nil, err
		}
		for _, file := range in {
			licensed = licensed || isLicence.MatchString(file.of)
			name, err := filepath.Rel(m.dir, filepath.Join(dir, file.of))
			if err != nil {
				return nil, err
			}
			found = append(found, licence{m.name + ", " + filepath.ToSlash(name), file.text})
		}
	}
	if !licensed {
		return nil, fmt.Errorf("%s has no licence: check its terms", m.name)
	}
	return found, nil
}

var (
	isLicence = regexp.MustCompile(`(?i)^(un)?licen[cs]e|^copying`)
	isNotice  = regexp.MustCompile(`(?i)^(notice|patents|copyright)`)
	isCode    = regexp.MustCompile(`(?i)\.(go|s|c|h|json|ya?ml)$`)
)

// licencesIn returns the licences in a folder, without its subfolders.
func licencesIn(dir string) ([]licence, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var found []licence
	for _, entry := range entries {
		name := entry.Name()
		if !entry.Type().IsRegular() || isCode.MatchString(name) || !isLicence.MatchString(name) && !isNotice.MatchString(name) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
		found = append(found, licence{name, strings.Trim(string(text), "\n") + "\n"})
	}
	return found, nil
}

// goLicences returns the licences of Go, whose runtime is part of every program.
func goLicences(ctx context.Context) ([]licence, error) {
	root, err := golang(ctx, "env", "GOROOT")
	if err != nil {
		return nil, err
	}
	version, err := golang(ctx, "env", "GOVERSION")
	if err != nil {
		return nil, err
	}
	root = strings.TrimSpace(root)
	m := module{name: "Go " + strings.TrimSpace(version), dir: root}
	return m.licences()
}

const head = `The licences and notices of the third-party code that is linked into
vault-plugin-secrets-tokenbroker. To get the source code of a module, run

    go mod download <module>@<version>

or download https://proxy.golang.org/<module>/@v/<version>.zip. The source code of Go is
at https://go.dev/dl/.
`

// write prints each text once, below the names of all its files, in the order in which the
// texts first appear.
func write(out io.Writer, files []licence) error {
	of := map[string][]string{}
	var texts []string
	for _, file := range files {
		if of[file.text] == nil {
			texts = append(texts, file.text)
		}
		of[file.text] = append(of[file.text], file.of)
	}
	all := head
	for _, text := range texts {
		all += "\n" + strings.Repeat("=", 80) + "\n" + strings.Join(of[text], "\n") + "\n" +
			strings.Repeat("-", 80) + "\n\n" + text
	}
	_, err := io.WriteString(out, all)
	return err
}
