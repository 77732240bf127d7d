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

// patience is how long a command may take to do as shown while a service of the
// page's runs in the background: who types a command is slower than who runs it.
// On a busy machine it is the service that is slow.
const patience = 5 * time.Minute

// Walk does what the page says in a directory, and ends what it started. The first
// thing that does not go as shown is its error.
func (p *Page) Walk(ctx context.Context, dir string, env []string) (err error) {
	shell, err := startSession(ctx, dir, env)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shell.stop()) }()
	w := &walk{page: p, dir: dir, shell: shell}
	for _, s := range p.steps {
		if err := w.do(s); err != nil {
			return err
		}
	}
	return w.checkServices()
}

// walk is a page on its way.
type walk struct {
	page     *Page
	dir      string
	shell    *session
	services []service
}

// service is a command that was put into the background.
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

// check is whether a command ended as shown.
func (s step) check(r *result) error {
	switch fails := strings.HasPrefix(s.shown, "Error "); {
	case fails && r.status == 0:
		return errors.New("it succeeded, and is shown to fail")
	case !fails && r.status != 0:
		return fmt.Errorf("it ended with status %d", r.status)
	case !match(s.shown, r.output()):
		return errors.New("it printed something else than is shown")
	}
	return nil
}

// checkServices is whether a service has failed by now. One that was ended by a
// signal (a status above 128) did as the page wanted.
func (w *walk) checkServices() error {
	for _, s := range w.services {
		r, err := w.shell.run(fmt.Sprintf("kill -0 %[1]d || wait %[1]d", s.process))
		if err != nil {
			return err
		}
		if r.status > 0 && r.status <= 128 {
			return w.failure(s.step, s.result, fmt.Errorf("it ended with status %d", r.status))
		}
	}
	return nil
}

// failure says what went wrong with a command of the page, and what it printed.
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
