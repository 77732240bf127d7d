//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
)

// kfinance answers as Kensho's API at kfinance.kensho.com does, whose paths are those of its library for Python. It
// takes only tokens for kfinance.
func (m *mount) kfinance(w http.ResponseWriter, r *http.Request) {
	token, isBearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	identifier, isID := strings.CutPrefix(r.URL.Path, "/api/v1/id/")
	switch {
	case !isBearer || !m.sim.Accepts(token) || !slices.Contains(strings.Fields(m.sim.KenshoScope(token)), "kensho:app:kfinance"):
		w.WriteHeader(http.StatusUnauthorized)
	case r.Method != http.MethodGet || !isID || identifier != "SPGI":
		w.WriteHeader(http.StatusNotFound)
	default:
		_, _ = io.WriteString(w, `{"trading_item_id": 2629108, "security_id": 2629107, "company_id": 21719}`)
	}
}

// search answers as the Search and Recommendation API of Sitecore does for the domain of its URL. It requires what the
// program sends: a widget, an entity and a locale. The widget of the answer has the words that were searched for.
func (m *mount) search(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Context struct {
			Locale struct{ Country, Language string }
		}
		Widget struct {
			Items []struct {
				RFKID  string `json:"rfk_id"`
				Entity string
				Search struct {
					Content map[string]any
					Query   struct{ Keyphrase string }
				}
			}
		}
	}
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&body)
	token, isBearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	items := body.Widget.Items
	switch {
	case !isBearer || !m.sim.Accepts(token):
		w.WriteHeader(http.StatusUnauthorized)
	case r.Method != http.MethodPost || r.URL.Path != "/discover/v2/123456789" || r.Header.Get("Content-Type") != "application/json" || err != nil,
		len(items) != 1 || items[0].RFKID != "rfkid_7" || items[0].Entity != "content" || items[0].Search.Content == nil,
		body.Context.Locale.Country == "" || body.Context.Locale.Language == "":
		w.WriteHeader(http.StatusBadRequest)
	default:
		_ = json.NewEncoder(w).Encode(map[string]any{"widgets": []any{map[string]any{"rfk_id": items[0].RFKID, "keyphrase": items[0].Search.Query.Keyphrase}}})
	}
}

func TestClientsCallTheAPIsOfKenshoAndSitecore(t *testing.T) {
	t.Parallel()
	own := ownWorld(t, vaultserver.StartDev)
	kensho := own.enable(t, "kensho")
	fields := kensho.keyPair()
	fields["product"] = "kfinance"
	kensho.write("config/kensho/prod", fields)
	sitecore := own.enable(t, "sitecore")
	sitecore.write("config/sitecore/prod", sitecore.sitecore())
	apis := behindProxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Host {
		case "kfinance.kensho.com":
			kensho.kfinance(w, r)
		case "discover.sitecorecloud.io":
			sitecore.search(w, r)
		default:
			http.Error(w, r.Host+" is not an API", http.StatusBadGateway)
		}
	}), nil)
	d := kensho.deploy("app-lease-free")
	require.NoError(t, own.root.Sys().PutPolicyWithContext(t.Context(), "app-lease-free", `path "+/token/*" { capabilities = ["read"] }`))
	environ := slices.Concat(apis, []string{
		"NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1", "VAULT_ADDR=" + own.server.Address,
		"SEARCH_WIDGET=rfkid_7", "SEARCH_URL=https://discover.sitecorecloud.io/discover/v2/123456789",
	})

	printed, err := d.call(environ, "/usr/bin/python3", "kfinance.py", "SPGI")
	require.NoError(t, err)
	assert.JSONEq(t, `{"trading_item_id": 2629108, "security_id": 2629107, "company_id": 21719}`, printed)
	search := []string{"./sitecore.sh", "cloud computing"}
	printed, err = d.call(environ, search...)
	require.NoError(t, err)
	assert.JSONEq(t, `{"widgets": [{"rfk_id": "rfkid_7", "keyphrase": "cloud computing"}]}`, printed)

	// The caller sees the errors of Vault and of the vendor, and nothing else of an answer.
	const other = "password-of-another-application"
	own.storeInKV(t, "kv", "token/other", other)
	for variable, message := range map[string]string{
		"TOKEN_PATH=sitecore/token/unknown": `no role or credential named "unknown"`,
		"TOKEN_PATH=kv/token/other":         "the answer has no http_header",
		"SEARCH_WIDGET=unknown":             "error: 400",
	} {
		_, err := d.call(slices.Concat(environ, []string{variable}), search...)
		require.ErrorContains(t, err, message)
		assert.NotContains(t, err.Error(), other)
	}
}

// storeInKV mounts the KV engine, version 1, and stores a password at a path of it.
func (w *world) storeInKV(t *testing.T, mount, path, password string) {
	t.Helper()
	require.NoError(t, w.root.Sys().MountWithContext(t.Context(), mount, &api.MountInput{Type: "kv"}))
	_, err := w.root.Logical().WriteWithContext(t.Context(), mount+"/"+path, map[string]any{"password": password})
	require.NoError(t, err)
}

// call runs a program of examples/clients and returns what it prints.
func (d *deployment) call(environ []string, command ...string) (string, error) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir = filepath.Join(filepath.Dir(d.dir), "clients")
	for _, file := range []string{"role-id", "secret-id"} {
		if err := os.Symlink(filepath.Join(d.dir, file), filepath.Join(cmd.Dir, file)); err != nil && !os.IsExist(err) {
			return "", err
		}
	}
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + d.t.TempDir()}, environ...)
	var failures bytes.Buffer
	cmd.Stderr = &failures
	output, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s%s", strings.Join(command, " "), err, output, failures.String())
	}
	return string(output), err
}
