package apidoc

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// exampleHeading separates a description from its examples. The engine has the same constant, in
// help.go.
const exampleHeading = "\n\nExample:\n\n"

// A Command is an example in the help of a path: a command of the vault client.
type Command struct {
	Text      string
	Operation logical.Operation
	Mount     string // such as kensho
	Path      string // relative to the mount
	Data      map[string]any
}

// Commands returns the examples in the help of a path.
func Commands(path *framework.Path) ([]Command, error) {
	_, examples, _ := strings.Cut(path.HelpDescription, exampleHeading)
	var commands []Command
	for line := range strings.Lines(examples) {
		command, err := parse(strings.TrimPrefix(strings.TrimSpace(line), "$ "))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", Name(path), err)
		}
		commands = append(commands, command)
	}
	return commands, nil
}

// operationsOf are the operations by the command of the vault client. A create is an update of an
// entry that does not exist.
var operationsOf = map[string]logical.Operation{
	"write": logical.UpdateOperation, "patch": logical.PatchOperation, "read": logical.ReadOperation,
	"list": logical.ListOperation, "delete": logical.DeleteOperation,
}

func parse(text string) (Command, error) {
	words := strings.Fields(text)
	if len(words) < 3 || words[0] != "vault" || operationsOf[words[1]] == "" {
		return Command{}, fmt.Errorf("%q is not a command of the vault client", text)
	}
	c := Command{Text: text, Operation: operationsOf[words[1]], Data: map[string]any{}}
	for _, word := range words[2:] {
		name, value, isField := strings.Cut(word, "=")
		switch {
		case strings.HasPrefix(word, "-"):
		case isField:
			c.Data[name] = value
		default:
			c.Mount, c.Path, _ = strings.Cut(word, "/")
		}
	}
	return c, nil
}

// curl returns the request of a command for curl.
func (c Command) curl() (string, error) {
	method := map[logical.Operation]string{
		logical.UpdateOperation: "-X POST ", logical.PatchOperation: `-X PATCH -H "Content-Type: application/merge-patch+json" `,
		logical.ListOperation: "-X LIST ", logical.DeleteOperation: "-X DELETE ",
	}[c.Operation]
	var data string
	for name, value := range c.Data {
		if file, isFile := strings.CutPrefix(fmt.Sprint(value), "@"); isFile {
			data = fmt.Sprintf(`-d "$(jq -n --rawfile %[1]s %[2]s '{%[1]s: $%[1]s}')" `, name, file)
		}
	}
	if data == "" && len(c.Data) > 0 {
		body, err := json.Marshal(c.Data)
		if err != nil {
			return "", err
		}
		data = fmt.Sprintf("-d '%s' ", body)
	}
	return fmt.Sprintf(`curl -H "X-Vault-Token: $VAULT_TOKEN" %s%s"$VAULT_ADDR/v1/%s/%s"`, method, data, c.Mount, c.Path), nil
}

// An example is a command with its request and the answer.
type example struct{ Command, Curl, Answer string }

func examplesOf(path *framework.Path, answers map[string]string) ([]example, error) {
	commands, err := Commands(path)
	if err != nil {
		return nil, err
	}
	var list []example
	for _, c := range commands {
		answer, isKnown := answers[c.Text]
		if !isKnown {
			return nil, fmt.Errorf("%s: %q has no answer", Name(path), c.Text)
		}
		curl, err := c.curl()
		if err != nil {
			return nil, err
		}
		list = append(list, example{c.Text, curl, answer})
	}
	return list, nil
}
