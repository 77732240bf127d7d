package main

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/syntax"

	"vault-plugin-secrets-tokenbroker/test/demo/stage"
	"vault-plugin-secrets-tokenbroker/test/internal/customer"
)

// exports returns the commands that set the environment of a person who uses the playground.
// variables are those of the pages.
func exports(s *stage.Stage, control string, variables map[string]string) (string, error) {
	variables = maps.Clone(variables)
	maps.Copy(variables, map[string]string{
		"VAULT_ADDR": s.Server.Address, "VAULT_TOKEN": s.Server.Token, "VAULT_PLUGIN_DIR": s.Server.PluginDir,
		"PLAYGROUND": control,
	})
	lines := []string{"unset VAULT_NAMESPACE VAULT_AGENT_ADDR VAULT_PROXY_ADDR"}
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		value, err := syntax.Quote(variables[name], syntax.LangPOSIX)
		if err != nil {
			return "", err
		}
		lines = append(lines, "export "+name+"="+value)
	}
	if _, err := exec.LookPath(s.Client); err != nil {
		lines = append(lines, `export PATH="`+filepath.Dir(s.Binary)+`:$PATH"`)
	}
	return strings.Join(lines, "\n") + "\n", nil
}

// endCommand returns the command that ends the playground without a terminal. A signal to make only
// makes it wait for this process.
func endCommand() string { return "kill -INT " + strconv.Itoa(os.Getpid()) }

// invite prints what a person can do. It writes the exports to a file in folder.
func invite(s *stage.Stage, folder, control string, variables map[string]string) error {
	text, err := exports(s, control, variables)
	if err != nil {
		return err
	}
	file := filepath.Join(folder, "exports")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	fmt.Println()
	fmt.Println(stage.Heading("The playground runs: a " + s.Client + " server, and simulated vendors."))
	fmt.Println("\nFor the commands below and for the pages of the documentation, run this in another terminal, in\n" +
		"this folder. It sets the server's address and token, and the variables of the pages:")
	fmt.Println()
	fmt.Println(stage.Command(". " + file))
	fmt.Println("\nRead a token, take the vendor down, see a refresh fail and a read go on with a warning,\n" +
		"end the outage, and refresh the token, which also ends the warning:")
	fmt.Println()
	for _, command := range []string{
		s.Client + " read " + mounts + "kensho/creds/prod",
		"curl -X POST " + control + "/kensho/down",
		s.Client + " write -f " + mounts + "kensho/refresh/prod",
		s.Client + " read " + mounts + "kensho/creds/prod min_ttl=1h",
		"curl -X POST " + control + "/kensho/up",
		s.Client + " write -f " + mounts + "kensho/refresh/prod",
	} {
		fmt.Println(stage.Command(command))
	}
	fmt.Println("\n" + `The same works for sitecore, with min_ttl=25h because its tokens are valid for 24 hours, and for
oauth2, which stands for all other vendors. Kensho's tokens expire 50 minutes after the start of the
playground, and then every hour.

The playground has its own mounts below ` + mounts + `. The pages enable other mounts, such as kensho/.
The files that the pages need (` + strings.Join(customer.Files, ", ") + `) are in this folder.

Ctrl-C ends the playground and removes all its files. From a script: ` + endCommand())
	return nil
}
