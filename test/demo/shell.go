package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/test/demo/stage"
)

// A shell runs the command-line client, and prints each command as a person would type it.
type shell struct {
	ctx    context.Context
	server *vaultserver.Server
	name   string // name of the client: vault or bao
	token  string
	shown  int // number of commands run
}

func (s *shell) say(format string, args ...any) {
	fmt.Printf("\n"+format+"\n", args...)
}

// heading prints the heading of a step.
func (s *shell) heading(text string) { s.say("%s", stage.Heading(text)) }

// command prints a command.
func (s *shell) command(format string, args ...any) {
	s.say("%s", stage.Command(fmt.Sprintf(format, args...)))
}

// showFile prints the content of a file.
func (s *shell) showFile(name, content string) {
	s.command("cat %s", name)
	fmt.Print(indent(content))
}

// run prints and runs a command that must succeed, and returns its output.
func (s *shell) run(args ...string) (string, error) {
	s.show("", args)
	output, err := s.quiet(args...)
	s.result(output)
	return output, err
}

// denied prints and runs a command that must fail with "permission denied".
func (s *shell) denied(prefix string, args ...string) error {
	s.show(prefix, args)
	output, err := s.quiet(args...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || !strings.Contains(output, "permission denied") {
		return fmt.Errorf("%v did not fail with permission denied: %w\n%s", args, err, output)
	}
	s.result(output)
	return nil
}

// as prints and runs a command with another token. The printed command has the name of a
// variable in place of the token.
func (s *shell) as(variable, token string, args ...string) (string, error) {
	other := *s
	other.token = token
	other.show(fmt.Sprintf("VAULT_TOKEN=$%s ", variable), args)
	output, err := other.quiet(args...)
	s.result(output)
	return output, err
}

// result prints the output of a command.
func (s *shell) result(output string) {
	fmt.Print(indent(output))
	s.shown++
}

// field returns the value of a key in the table that a read prints.
func field(output, key string) string {
	for line := range strings.Lines(output) {
		if words := strings.Fields(line); len(words) == 2 && words[0] == key {
			return words[1]
		}
	}
	return ""
}

// quiet runs a command without printing it.
func (s *shell) quiet(args ...string) (string, error) {
	output, err := s.server.Command(s.ctx, s.token, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s", s.name, strings.Join(args, " "), err, output)
	}
	return string(output), err
}

// show prints a command, wrapped where a line would become too long.
func (s *shell) show(prefix string, args []string) {
	line := prefix + s.name
	for _, arg := range args {
		if strings.ContainsAny(arg, " *") {
			arg = "'" + arg + "'"
		}
		if len(line)-strings.LastIndex(line, "\n")+len(arg) > 88 {
			line += " \\\n     "
		}
		line += " " + arg
	}
	s.command("%s", line)
}

func indent(output string) string {
	output = strings.TrimRight(output, "\n")
	if output == "" {
		return ""
	}
	return strings.ReplaceAll("    "+strings.ReplaceAll(output, "\n", "\n    ")+"\n", "\n    \n", "\n\n")
}
