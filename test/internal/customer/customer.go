// Package customer simulates a customer of all vendors: accounts at simulated vendors, and the
// variables and files with which the pages of the documentation use them.
package customer

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/testing/process"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// A Customer has accounts at the vendors of a Sim.
type Customer struct {
	sim       *vendorsim.Sim
	dir       string
	variables map[string]string
	files     []string          // that Open has written
	secrets   []string          // the private keys in these files
	stale     map[string]string // content that the file of a sentKey had before, by name
	acmeAPI   *httptest.Server
	jobs      *jobIssuer
}

// Open opens an account at each vendor, and writes files with private keys to dir, the directory in
// which the pages are followed. It replaces no file. Close removes the files; if this process ends
// before, they are removed too.
func Open(sim *vendorsim.Sim, dir string) (_ *Customer, err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	c := &Customer{sim: sim, dir: dir, variables: map[string]string{}, stale: map[string]string{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	for _, k := range sentKeys {
		c.variables[k.variable] = k.id
		if content, err := os.ReadFile(filepath.Join(dir, k.file)); err == nil {
			c.stale[k.file] = string(content)
		}
	}
	keys, err := newPrivateKeys()
	if err != nil {
		return nil, err
	}
	if c.jobs, err = newJobIssuer(); err != nil {
		return nil, err
	}
	c.addKensho(keys)
	c.addSitecore()
	c.addOAuth(keys)
	c.addAcme()
	c.addFederation()
	return c, c.writeKeys(keys)
}

// Variables returns the environment variables with the credentials of the customer.
func (c *Customer) Variables() map[string]string { return maps.Clone(c.variables) }

// Secrets returns the private keys that Open has written.
func (c *Customer) Secrets() []string { return c.secrets }

// Close removes the files that Open has written, also if they have changed, and ends the API of Acme.
func (c *Customer) Close() error {
	if c.acmeAPI != nil {
		c.acmeAPI.Close()
	}
	var errs []error
	for _, path := range c.files {
		if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// ServeHTTP answers as the vendors do, which have the keys that the customer has sent by now, and as the CI systems of the
// customer's jobs.
func (c *Customer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if isOfJobIssuer(r) {
		c.jobs.ServeHTTP(w, r)
		return
	}
	c.deliver()
	c.sim.ServeHTTP(w, r)
}

func (c *Customer) addKensho(k *privateKeys) {
	refresh := func(product, variable, token string) {
		c.sim.AddRefreshToken(product, token)
		c.variables[variable] = token
	}
	refresh("link-streaming", "KENSHO_REFRESH_TOKEN", "refresh-token-of-kensho-0123456789")
	refresh("scribe", "SCRIBE_REFRESH_TOKEN", "refresh-token-of-scribe-0123456789")
	c.sim.AddClient(c.variables["KENSHO_CLIENT_ID"], &k.first.PublicKey, "")
	c.variables["KENSHO_ACCESS_TOKEN"] = "access-token-of-kensho-0123456789"
}

func (c *Customer) addSitecore() {
	for variable, apiKey := range map[string]string{
		"SITECORE_API_KEY":      "01-4d3c2b1a-0f9e8d7c6b5a49382716051423324150617283940a1",
		"SITECORE_NEXT_API_KEY": "01-4d3c2b1a-a1049382716051423324150617283940f9e8d7c6b5a",
	} {
		c.sim.AddAPIKey(apiKey)
		c.variables[variable] = apiKey
	}
	const refreshToken = "refresh-token-of-sitecore-0123456789"
	c.sim.AddPair(refreshToken, 24*time.Hour, 7*24*time.Hour)
	c.variables["SITECORE_REFRESH_TOKEN"] = refreshToken
}

// write writes a file with a private key.
func (c *Customer) write(name, content string) error {
	path := filepath.Join(c.dir, name)
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("%w; move it away, because the pages write and delete a file of this name", err)
	}
	c.files = append(c.files, path)
	_, err = file.WriteString(content)
	return errors.Join(err, file.Close(), process.RemoveAtExit(path))
}
