// Command licenses prints the licences and notices of all that a program is linked of, on
// the platform that GOOS and GOARCH name: of each module, as far as its packages are in it,
// and of Go itself. Texts that are alike are printed once, under all that they are of.
//
//	licenses ./cmd/vault-plugin-secrets-tokenbroker >THIRD_PARTY_LICENSES
//
// The texts come out of the modules that the program is built of, so that they are those of
// its versions, and the same go.sum gives the same bytes. A module without a licence is an
// error: somebody has to look at it.
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

// A module is what some of the linked packages are of.
type module struct {
	name     string // and version
	dir      string
	packages []string // their directories
}

// modules are those which packages are linked of, without the main one.
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
			continue // it is of Go, or the program's own
		}
		name, dir, in := fields[0], fields[1], fields[2]
		if known[name] == nil {
			known[name] = &module{name: name, dir: dir}
		}
		known[name].packages = append(known[name].packages, in)
	}
	return slices.SortedFunc(maps.Values(known), func(a, b *module) int { return cmp.Compare(a.name, b.name) }), nil
}

func golang(ctx context.Context, args ...string) (string, error) {
	output, err := exec.CommandContext(ctx, "go", args...).Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		err = fmt.Errorf("go %s: %w\n%s", args[0], err, failed.Stderr)
	}
	return string(output), err
}

// A licence is a licence, a notice or a grant, and the file that it stands in.
type licence struct{ of, text string }

// licences are those of a module, and of parts of it that come from others, if they are
// linked.
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
		return nil, fmt.Errorf("%s has no licence in it", m.name)
	}
	return found, nil
}

var (
	isLicence = regexp.MustCompile(`(?i)^(un)?licen[cs]e|^copying`)
	isNotice  = regexp.MustCompile(`(?i)^(notice|patents|copyright)`)
	isCode    = regexp.MustCompile(`(?i)\.(go|s|c|h|json|ya?ml)$`)
)

// licencesIn are those of a folder.
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

// goLicences are those of Go itself, whose packages and runtime are in each program.
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

const head = `What vault-plugin-secrets-tokenbroker is linked of, beside its own code, and under which
licences and notices. The source code of each module is had by

    go mod download <module>@<version>

or as https://proxy.golang.org/<module>/@v/<version>.zip, and that of Go from
https://go.dev/dl/.
`

// write prints each text once, in the order of the first of which it is.
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
