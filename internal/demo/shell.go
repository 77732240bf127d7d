package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
)

// shell runs the server's client, showing each command as it would be typed.
type shell struct {
	ctx    context.Context
	server *vaultserver.Server
	name   string // of the client: vault or bao
	token  string
	pace   time.Duration // for the output of a command to be read in
	shown  int           // commands
}

func (s *shell) say(format string, args ...any) {
	fmt.Printf("\n"+format+"\n", args...)
}

// run shows and runs a command that must succeed.
func (s *shell) run(args ...string) (string, error) {
	s.show("", args)
	output, err := s.quiet(args...)
	s.result(output)
	return output, err
}

// denied shows and runs a command that must be refused for want of a policy.
func (s *shell) denied(prefix string, args ...string) error {
	s.show(prefix, args)
	output, err := s.quiet(args...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || !strings.Contains(output, "permission denied") {
		return fmt.Errorf("%v was to be denied: %w\n%s", args, err, output)
	}
	s.result(output)
	return nil
}

// as runs a command with another token, which the command shows by the name of a
// variable.
func (s *shell) as(variable, token string, args ...string) (string, error) {
	other := *s
	other.token = token
	other.show(fmt.Sprintf("VAULT_TOKEN=$%s ", variable), args)
	output, err := other.quiet(args...)
	s.result(output)
	return output, err
}

// result shows what a command printed.
func (s *shell) result(output string) {
	fmt.Print(indent(output))
	s.shown++
	s.pause()
}

// pause lets what was shown be read.
func (s *shell) pause() {
	select {
	case <-time.After(s.pace):
	case <-s.ctx.Done():
	}
}

// field is the value of a key in the table that a read printed.
func field(output, key string) string {
	for line := range strings.Lines(output) {
		if words := strings.Fields(line); len(words) == 2 && words[0] == key {
			return words[1]
		}
	}
	return ""
}

func (s *shell) quiet(args ...string) (string, error) {
	output, err := s.server.Command(s.ctx, s.token, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s", s.name, strings.Join(args, " "), err, output)
	}
	return string(output), err
}

// show prints a command, with the long values of its arguments on lines of their
// own.
func (s *shell) show(prefix string, args []string) {
	line := "$ " + prefix + s.name
	for _, arg := range args {
		if strings.ContainsAny(arg, " *") {
			arg = "'" + arg + "'"
		}
		if len(line)-strings.LastIndex(line, "\n")+len(arg) > 90 {
			line += " \\\n     "
		}
		line += " " + arg
	}
	fmt.Println("\n" + line)
}

func indent(output string) string {
	output = strings.TrimRight(output, "\n")
	if output == "" {
		return ""
	}
	return strings.ReplaceAll("    "+strings.ReplaceAll(output, "\n", "\n    ")+"\n", "\n    \n", "\n\n")
}
