package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"vault-plugin-secrets-tokenbroker/test/demo/stage"
)

// exports returns the commands that set the environment of a person who uses the playground.
func exports(s *stage.Stage, control string) string {
	lines := []string{
		"unset VAULT_NAMESPACE VAULT_AGENT_ADDR VAULT_PROXY_ADDR",
		"export VAULT_ADDR=" + s.Server.Address + " VAULT_TOKEN=" + s.Server.Token,
		"export VAULT_PLUGIN_DIR=" + s.Server.PluginDir,
		"export KENSHO_REFRESH_TOKEN=" + kenshoRefreshToken,
		"export SITECORE_API_KEY=" + sitecoreAPIKey,
		"export PLAYGROUND=" + control,
		"export OAUTH2_CLIENT_ID=" + oauthClientID + " OAUTH2_CLIENT_SECRET=" + oauthClientSecret,
	}
	if _, err := exec.LookPath(s.Client); err != nil {
		lines = append(lines, `export PATH="`+filepath.Dir(s.Binary)+`:$PATH"`)
	}
	return strings.Join(lines, "\n") + "\n"
}

// invite prints what a person can do. It writes the exports to a file in folder.
func invite(s *stage.Stage, folder, control string) error {
	variables := exports(s, control)
	file := filepath.Join(folder, "exports")
	if err := os.WriteFile(file, []byte(variables), 0o600); err != nil {
		return err
	}
	fmt.Println()
	fmt.Println(stage.Heading("The playground runs: a " + s.Client + " server, and the simulated vendors kensho, sitecore and oauth2."))
	fmt.Println("\nFor the commands below and for the tutorial of the README, run this in another terminal:\n\n" +
		stage.Command(". "+file) + "\n\nIt sets:\n")
	fmt.Print("    ", strings.ReplaceAll(strings.TrimSuffix(variables, "\n"), "\n", "\n    "), "\n")
	fmt.Println("\nRead a token, take the vendor down, see a refresh fail and a read go on with a warning,\n" +
		"and end the outage:")
	fmt.Println()
	for _, command := range []string{
		s.Client + " read " + mounts + "kensho/creds/prod",
		"curl -X POST " + control + "/kensho/down",
		s.Client + " write -f " + mounts + "kensho/refresh/prod",
		s.Client + " read " + mounts + "kensho/creds/prod min_ttl=1h",
		"curl -X POST " + control + "/kensho/up",
	} {
		fmt.Println(stage.Command(command))
	}
	fmt.Println("\nThe same works for sitecore and oauth2.\n" +
		"Ctrl-C ends the playground and removes all its files.")
	return nil
}
