package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/test/demo/stage"
)

// mounts is the path of the playground's mounts. The paths of the pages, such as kensho/, are left
// to their readers.
const mounts = "playground/"

// credentials returns the credentials to store, by their paths below mounts. variables are those of
// the pages.
func credentials(variables map[string]string) map[string]map[string]any {
	return map[string]map[string]any{
		"kensho/config/kensho/prod":     {"refresh_token": variables["KENSHO_REFRESH_TOKEN"]},
		"sitecore/config/sitecore/prod": {"api_key": variables["SITECORE_API_KEY"], "scope": "discover,event"},
		"oauth2/config/oauth2/prod": {
			"token_url": vendorsim.OAuthTokenURL, "client_id": variables["OAUTH2_CLIENT_ID"], "client_secret": variables["OAUTH2_CLIENT_SECRET"],
			"scope": "invoices.read,invoices.write",
		},
	}
}

// setUp registers the plugin, and mounts it and stores a credential for each vendor.
func setUp(ctx context.Context, s *stage.Stage, version string, variables map[string]string) error {
	client, err := s.Server.Client()
	if err != nil {
		return err
	}
	binary, err := os.ReadFile(filepath.Join(s.Server.PluginDir, s.Plugin))
	if err != nil {
		return err
	}
	err = client.Sys().RegisterPluginWithContext(ctx, &api.RegisterPluginInput{
		Name: "tokenbroker", Type: api.PluginTypeSecrets, Command: s.Plugin, Version: version,
		SHA256: fmt.Sprintf("%x", sha256.Sum256(binary)),
	})
	if err != nil {
		return err
	}
	for path, fields := range credentials(variables) {
		vendor, _, _ := strings.Cut(path, "/")
		err := client.Sys().MountWithContext(ctx, mounts+vendor, &api.MountInput{
			Type: "tokenbroker", Config: api.MountConfigInput{PluginVersion: version},
		})
		if err != nil {
			return err
		}
		if _, err := client.Logical().WriteWithContext(ctx, mounts+path, fields); err != nil {
			return err
		}
	}
	return nil
}
