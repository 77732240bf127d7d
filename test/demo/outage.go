package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

const (
	// shortest is the lifetime of the second act's tokens on an idle machine. The engine renews
	// a token when a quarter of its lifetime is left, and the steps with the vendor down must
	// fit into that quarter.
	shortest = 20 * time.Second

	// commands is the minimum lifetime as a multiple of the time that a command takes. A quarter
	// of it is enough for 12 commands. Six run in that time; the others are a reserve for a
	// machine that becomes slower.
	commands = 48
)

// An outage is the second act: an outage of the vendor, for an application that gets its token
// from an Agent.
type outage struct {
	*tutorial
	lifetime time.Duration // lifetime of a token
	token    string        // the token that is cached when the vendor goes down
	path     string        // the file that the Agent writes it to
}

const kioskPolicy = `path "sitecore/creds/kiosk" {
  capabilities = ["read"]
}
`

const agentConfig = `auto_auth {
  method "token_file" {
    config = { token_file_path = "vault-token" }
  }
}
template {
  contents    = "{{ with secret \"sitecore/creds/kiosk\" }}{{ .Data.access_token }}{{ end }}"
  destination = "kiosk-token"
}
`

// outage runs the second act. The lifetime of its tokens depends on how long a command took in
// the first.
func (t *tutorial) outage(perCommand time.Duration) (err error) {
	o := &outage{
		tutorial: t,
		lifetime: max(shortest, commands*perCommand).Round(time.Second),
		path:     filepath.Join(t.server.Dir(), "kiosk-token"),
	}
	agent, err := o.deploy()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, agent.Stop()) }()
	for _, step := range []func(*vaultserver.Agent) error{o.render, o.down, o.back, o.metrics} {
		if err := step(agent); err != nil {
			return err
		}
	}
	return nil
}

// deploy starts an Agent whose policy allows it to read one token, and nothing else.
func (o *outage) deploy() (*vaultserver.Agent, error) {
	o.heading("## 7. Run an Agent for an application that does not use Vault itself")
	o.say("The Agent may read one token, and writes it to a file. It uses a Vault token; the\n" +
		"ones in examples/agent log in with AppRole.")
	for name, content := range map[string]string{"kiosk.hcl": kioskPolicy, "agent.hcl": agentConfig} {
		if err := os.WriteFile(filepath.Join(o.server.Dir(), name), []byte(content), 0o600); err != nil {
			return nil, err
		}
	}
	o.showFile("kiosk.hcl", kioskPolicy)
	if _, err := o.shell.run("policy", "write", "kiosk", "kiosk.hcl"); err != nil {
		return nil, err
	}
	o.command("%s token create -policy=kiosk -field=token >vault-token", o.name)
	token, err := o.quiet("token", "create", "-policy=kiosk", "-field=token")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(o.server.Dir(), "vault-token"), []byte(token), 0o600); err != nil {
		return nil, err
	}
	o.showFile("agent.hcl", agentConfig)
	o.say("The access tokens have a lifetime of %s instead of Sitecore's default of a day.", o.lifetime)
	if _, err := o.shell.run("write", "sitecore/config/sitecore/kiosk", "api_key="+apiKey, "access_expiry="+o.lifetime.String(),
		"base_url="+vendorsim.URL(o.vendorURL, "https://api.rfksrv.com")); err != nil {
		return nil, err
	}
	o.command("%s agent -config=agent.hcl &", o.name)
	return o.server.StartAgent(o.server.Dir(), o.log, "agent", "-config=agent.hcl")
}

func (o *outage) render(agent *vaultserver.Agent) error {
	if err := o.await(agent, func() bool { return o.rendered() != "" }); err != nil {
		return fmt.Errorf("the Agent did not write a token: %w", err)
	}
	o.token = o.cat()
	return o.accepted(o.token)
}

// down makes the vendor unavailable, and shows what a read and the status return.
func (o *outage) down(*vaultserver.Agent) error {
	o.heading("## 8. The vendor goes down and answers every request with 503")
	// The engine does not call the vendor before Retry-After has passed.
	retryAfter := int(o.lifetime.Seconds()) / 8
	o.vendors.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Later(http.StatusServiceUnavailable, strconv.Itoa(retryAfter)))})
	if err := o.due(); err != nil {
		return err
	}
	output, err := o.shell.run("read", "sitecore/creds/kiosk")
	if err != nil {
		return err
	}
	if !strings.Contains(output, "the vendor issues no newer token") {
		return errors.New("the read returned no warning about the vendor")
	}
	if token := field(output, "access_token"); token != o.token {
		return errors.New("the read did not return the cached token")
	}
	status, err := o.shell.run("read", "sitecore/status/kiosk")
	if err != nil {
		return err
	}
	if state := field(status, "state"); state != "degraded" {
		return fmt.Errorf("the state is %q, expected degraded", state)
	}
	if field(status, "next_attempt_time") == "" {
		return errors.New("the status has no next_attempt_time")
	}
	if o.cat() != o.token {
		return errors.New("the Agent's file no longer contains the cached token")
	}
	if err := o.accepted(o.token); err != nil {
		return err
	}
	o.say("This read and the Agent's file still have the valid token. The warning and the status\n" +
		"report the outage, and when the engine calls the vendor again.")
	return nil
}

// due waits until a quarter of the token's lifetime is left.
func (o *outage) due() error {
	wait := time.Until(o.vendors.Expiry(o.token).Add(-o.lifetime / 4))
	if wait <= 0 {
		return nil
	}
	o.say("The engine renews the token when a quarter of its lifetime is left, in %.0f s …", wait.Seconds())
	select {
	case <-time.After(wait):
		return nil
	case <-o.ctx.Done():
		return o.ctx.Err()
	}
}

// back ends the outage, and waits until the Agent has a new token.
func (o *outage) back(agent *vaultserver.Agent) error {
	o.heading("## 9. The vendor comes back")
	o.say("The Agent reads again before its lease ends, and gets a new token in a few seconds …")
	o.vendors.Behave(vendorsim.Conduct{})
	if err := o.await(agent, func() bool { return o.rendered() != o.token }); err != nil {
		return fmt.Errorf("the Agent did not write a new token: %w", err)
	}
	if err := o.accepted(o.cat()); err != nil {
		return err
	}
	status, err := o.shell.run("read", "sitecore/status/kiosk")
	if err != nil {
		return err
	}
	if state := field(status, "state"); state != "ok" {
		return fmt.Errorf("the state is %q, expected ok", state)
	}
	return nil
}

// metrics prints the metrics of the outage.
func (o *outage) metrics(*vaultserver.Agent) error {
	o.heading("## 10. Read the metrics of the outage")
	const lines = `^tokenbroker.*((success|unavailable).*sitecore|stale|kiosk)`
	o.command("%s read -format=raw sitecore/metrics | grep -E '%s'", o.name, lines)
	output, err := o.quiet("read", "-format=raw", "sitecore/metrics")
	if err != nil {
		return err
	}
	o.result(strings.Join(regexp.MustCompile(`(?m)`+lines+`.*$`).FindAllString(output, -1), "\n"))
	for _, counted := range []string{`result="unavailable",vendor="sitecore"`, `result="stale"`} {
		if !regexp.MustCompile(counted + `} [1-9]`).MatchString(output) {
			return fmt.Errorf("the metrics have no count for %s", counted)
		}
	}
	return nil
}

// rendered returns the content of the Agent's file.
func (o *outage) rendered() string {
	content, err := os.ReadFile(o.path)
	if err != nil {
		return "" // the Agent has not written it yet
	}
	return string(content)
}

// cat prints and returns the content of the Agent's file.
func (o *outage) cat() string {
	content := o.rendered()
	o.showFile("kiosk-token", content)
	return content
}

func (o *outage) accepted(token string) error {
	if !o.vendors.Accepts(token) {
		return errors.New("the vendor does not accept the token")
	}
	return nil
}

// await waits until the condition holds, the Agent has ended, or the time is up. On an idle
// machine, the condition holds within a token's lifetime.
func (o *outage) await(agent *vaultserver.Agent, condition func() bool) error {
	const patience = 5 * time.Minute
	deadline := time.After(o.lifetime + patience)
	for !condition() {
		select {
		case <-agent.Ended():
			return errors.New("the Agent has ended")
		case <-deadline:
			return fmt.Errorf("timed out after %s", o.lifetime+patience)
		case <-o.ctx.Done():
			return o.ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}
