// Command client calls a vendor's API once a second with a token from Vault. It logs in by AppRole, reads the token again
// when Vault has a newer one, and goes on with a valid token while Vault or the vendor is down.
//
//	VAULT_ADDR=https://vault.example.com API_URL=https://api.example.com/v1/me go run client.go
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/vault/api"
)

const (
	// retry is how long after a failed read the next one follows.
	retry = 5 * time.Second

	// timeout bounds each request.
	timeout = 10 * time.Second
)

// Tokens reads a token when it is needed. It is not safe for concurrent use.
type Tokens struct {
	vault *api.Client
	path  string // token/<name>, with the mount

	header    string    // the header of the vendor's API, with the token
	expiry    time.Time // of the token
	readAgain time.Time // when Vault has a newer token
	failure   error     // of the last read
}

// Header returns the name and the value of the header that the vendor's API takes.
func (t *Tokens) Header(ctx context.Context) (name, value string, err error) {
	if !time.Now().Before(t.readAgain) {
		if t.failure = t.read(ctx); t.failure != nil {
			t.readAgain = time.Now().Add(retry)
			log.Printf("no newer token (%s); the present one is valid until %s", t.failure, t.expiry)
		}
	}
	if !time.Now().Before(t.expiry) {
		return "", "", fmt.Errorf("without a valid token: %w", t.failure)
	}
	name, value, _ = strings.Cut(t.header, ": ")
	return name, value, nil
}

// Drop makes the next call of Header read the token, after the vendor has refused the present one.
func (t *Tokens) Drop() { t.readAgain = time.Time{} }

func (t *Tokens) read(ctx context.Context) error {
	secret, err := t.vault.Logical().ReadWithContext(ctx, t.path)
	var refused *api.ResponseError
	if errors.As(err, &refused) && refused.StatusCode == http.StatusForbidden { // not logged in, or not any more
		if err := t.logIn(ctx); err != nil {
			return err
		}
		secret, err = t.vault.Logical().ReadWithContext(ctx, t.path)
	}
	if err != nil {
		return err
	}
	if secret == nil {
		return fmt.Errorf("%s: not found", t.path)
	}
	header, _ := secret.Data["http_header"].(string)
	expiry, _ := secret.Data["expire_time"].(string)
	ttl, _ := secret.Data["ttl"].(json.Number)
	seconds, _ := ttl.Int64()
	end, err := time.Parse(time.RFC3339, expiry)
	if header == "" || err != nil {
		return fmt.Errorf("%s: the answer has no token", t.path)
	}
	t.header, t.expiry, t.readAgain = header, end, time.Now().Add(time.Duration(seconds)*time.Second)
	log.Printf("read a token that is valid until %s; the next read is in %d s", expiry, seconds)
	return nil
}

// logIn logs in by AppRole, with the files that examples/agent/approle.sh writes.
func (t *Tokens) logIn(ctx context.Context) error {
	roleID, err := os.ReadFile("role-id")
	if err != nil {
		return err
	}
	secretID, err := os.ReadFile("secret-id")
	if err != nil {
		return err
	}
	secret, err := t.vault.Logical().WriteWithContext(ctx, "auth/approle/login", map[string]any{
		"role_id": strings.TrimSpace(string(roleID)), "secret_id": strings.TrimSpace(string(secretID)),
	})
	if err != nil {
		return err
	}
	if secret == nil || secret.Auth == nil {
		return errors.New("the login has no token")
	}
	t.vault.SetToken(secret.Auth.ClientToken)
	return nil
}

// call calls the vendor's API.
func call(ctx context.Context, tokens *Tokens) error {
	name, value, err := tokens.Header(ctx)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, os.Getenv("API_URL"), http.NoBody) //nolint:gosec // set by the person who runs this
	if err != nil {
		return err
	}
	req.Header.Set(name, value)
	resp, err := (&http.Client{Timeout: timeout}).Do(req) //nolint:gosec // as above
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusUnauthorized {
		tokens.Drop()
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the vendor answers %s", resp.Status)
	}
	return nil
}

func main() {
	vault, err := api.NewClient(nil) // configured by VAULT_ADDR and the like
	if err != nil {
		log.Fatal(err)
	}
	vault.SetClientTimeout(timeout)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	tokens := &Tokens{vault: vault, path: cmp.Or(os.Getenv("TOKEN_PATH"), "kensho/token/prod")}
	for ticker := time.NewTicker(time.Second); ; {
		if err := call(ctx, tokens); err != nil && ctx.Err() == nil {
			log.Print(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
