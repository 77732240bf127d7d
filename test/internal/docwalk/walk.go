package docwalk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// patience is how long a command is retried until its output is as shown, if a service of the
// page runs in the background. A reader types slowly enough for the service to be ready; this
// program does not, and on a busy machine the service takes longer.
const patience = 5 * time.Minute

// A Reader follows pages one after the other. Each page begins in the working directory in which
// the one before it ended, as in one shell.
type Reader struct {
	dir, workingDir string
	env             []string
}

// NewReader returns a reader whose first page begins in dir. The files of the pages are relative
// to dir.
func NewReader(dir string, env []string) *Reader {
	return &Reader{dir: dir, workingDir: dir, env: env}
}

// Follow performs the steps of a page, and then ends the processes that they started. It stops at
// the first step whose result is not as shown and returns an error. The end of ctx kills the shell.
func (r *Reader) Follow(ctx context.Context, p *Page) (err error) {
	shell, err := startSession(ctx, r.workingDir, r.env)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shell.stop()) }()
	w := &walk{page: p, dir: r.dir, shell: shell}
	for _, s := range p.steps {
		if err := w.do(s); err != nil {
			return err
		}
	}
	if err := w.checkServices(); err != nil {
		return err
	}
	end, err := shell.run("pwd")
	r.workingDir = strings.TrimSuffix(end.output(), "\n")
	return err
}

// Walk performs the steps of the page in a directory, as the first page of a Reader.
func (p *Page) Walk(ctx context.Context, dir string, env []string) error {
	return NewReader(dir, env).Follow(ctx, p)
}

// A walk is the state of a walk through a page.
type walk struct {
	page     *Page
	dir      string
	shell    *session
	services []service
}

// A service is a command that runs in the background.
type service struct {
	step
	*result
}

func (w *walk) do(s step) error {
	if s.file != "" {
		return w.write(s)
	}
	for begun := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		r, err := w.shell.run(s.command)
		if err != nil {
			return w.failure(s, r, err)
		}
		if s.background {
			w.services = append(w.services, service{s, r})
		}
		if err = s.check(r); err == nil {
			return nil
		}
		if err := w.checkServices(); err != nil {
			return err
		}
		if len(w.services) == 0 || time.Since(begun) > patience {
			return w.failure(s, r, err)
		}
	}
}

func (w *walk) write(s step) error {
	path := filepath.Join(w.dir, s.file)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(s.content), 0o600)
}

// check returns an error unless the result of the command is as shown.
func (s step) check(r *result) error {
	switch fails := strings.HasPrefix(s.shown, "Error "); {
	case fails && r.status == 0:
		return errors.New("the command succeeded, but the page shows that it fails")
	case !fails && r.status != 0:
		return fmt.Errorf("the command ended with status %d", r.status)
	case !match(s.shown, r.output()):
		return errors.New("the output is not as shown")
	}
	return nil
}

// checkServices returns an error if a service has failed. A status above 128 is not a failure:
// the page ended the service with a signal.
func (w *walk) checkServices() error {
	for _, s := range w.services {
		r, err := w.shell.run(fmt.Sprintf("kill -0 %[1]d || wait %[1]d", s.process))
		if err != nil {
			return err
		}
		if r.status > 0 && r.status <= 128 {
			return w.failure(s.step, s.result, fmt.Errorf("the command ended with status %d", r.status))
		}
	}
	return nil
}

// failure returns err with the position of the command in the page, the command, and its shown
// and actual output.
func (w *walk) failure(s step, r *result, err error) error {
	text := indent(prompt + s.command)
	if s.shown != "" {
		text += "\nshown:\n" + indent(s.shown)
	}
	return w.page.errorf(s.line, "%w\n%s\nprinted:\n%s", err, text, indent(r.output()))
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ")
}
