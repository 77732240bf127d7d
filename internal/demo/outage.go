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
	// shortest is the life of the second act's tokens on an idle machine: three quarters
	// of it pass until a fresher one is due, and what is shown with the vendor down has to
	// be shown in the rest.
	shortest = 20 * time.Second

	// commands is how many commands' time the life is at the least: twelve of them in the
	// rest, where six are shown, for a machine that gets slower.
	commands = 48
)

// An outage is the second act: what a vendor's bad day is like for an application that
// has its token from an Agent.
type outage struct {
	*tutorial
	life  time.Duration // of a token
	token string        // the one that is served when the vendor goes down
	path  string        // the file that Agent keeps it in
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

// outage plays the second act. The slower the machine has been in the first, the longer
// the tokens live.
func (t *tutorial) outage(perCommand time.Duration) (err error) {
	o := &outage{
		tutorial: t,
		life:     max(shortest, commands*perCommand).Round(time.Second),
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

// deploy starts an Agent that may read one token, and nothing else.
func (o *outage) deploy() (*vaultserver.Agent, error) {
	o.say("## 7. An Agent, for an application that knows nothing of Vault\n\n" +
		"It may read one token, and keeps that in a file. (Those of examples/agent log in by\n" +
		"AppRole; this one is handed a Vault token.)")
	for name, content := range map[string]string{"kiosk.hcl": kioskPolicy, "agent.hcl": agentConfig} {
		if err := os.WriteFile(filepath.Join(o.server.Dir(), name), []byte(content), 0o600); err != nil {
			return nil, err
		}
	}
	fmt.Print("\n$ cat kiosk.hcl\n", indent(kioskPolicy))
	if _, err := o.shell.run("policy", "write", "kiosk", "kiosk.hcl"); err != nil {
		return nil, err
	}
	o.say("$ %s token create -policy=kiosk -field=token >vault-token", o.name)
	token, err := o.quiet("token", "create", "-policy=kiosk", "-field=token")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(o.server.Dir(), "vault-token"), []byte(token), 0o600); err != nil {
		return nil, err
	}
	fmt.Print("\n$ cat agent.hcl\n", indent(agentConfig))
	o.pause()
	o.say("Its tokens live for %s, so that what takes Sitecore a day takes %[1]s here.", o.life)
	if _, err := o.shell.run("write", "sitecore/config/sitecore/kiosk", "api_key="+apiKey, "access_expiry="+o.life.String(),
		"base_url="+vendorsim.URL(o.vendorURL, "https://api.rfksrv.com")); err != nil {
		return nil, err
	}
	o.say("$ %s agent -config=agent.hcl &", o.name)
	return o.server.StartAgent(o.server.Dir(), o.log, "agent", "-config=agent.hcl")
}

func (o *outage) render(agent *vaultserver.Agent) error {
	if err := o.await(agent, func() bool { return o.rendered() != "" }); err != nil {
		return fmt.Errorf("the Agent renders no token: %w", err)
	}
	o.token = o.cat()
	return o.accepted(o.token)
}

// down takes the vendor away, and reads on.
func (o *outage) down(*vaultserver.Agent) error {
	o.say("## 8. The vendor goes down: whoever asks it for anything is answered 503")
	// What the vendor wishes is obeyed: it is not called in that time, whoever reads.
	retryAfter := int(o.life.Seconds()) / 8
	o.vendors.Behave(vendorsim.Conduct{Fault: vendorsim.Always(vendorsim.Later(http.StatusServiceUnavailable, strconv.Itoa(retryAfter)))})
	if err := o.due(); err != nil {
		return err
	}
	output, err := o.shell.run("read", "sitecore/creds/kiosk")
	if err != nil {
		return err
	}
	if !strings.Contains(output, "the vendor issues no newer token") {
		return errors.New("the read does not warn of the vendor")
	}
	if token := field(output, "access_token"); token != o.token {
		return errors.New("the read gives another token than the good one")
	}
	status, err := o.shell.run("read", "sitecore/status/kiosk")
	if err != nil {
		return err
	}
	if state := field(status, "state"); state != "degraded" {
		return fmt.Errorf("the state is %q, not degraded", state)
	}
	if field(status, "next_attempt_time") == "" {
		return errors.New("the status does not say when the vendor is asked again")
	}
	if o.cat() != o.token {
		return errors.New("the Agent's file does not hold the good token any more")
	}
	if err := o.accepted(o.token); err != nil {
		return err
	}
	o.say("Nobody is hurt: the token is good, for this reader and in the Agent's file. Only an\n" +
		"operator sees that the vendor is down, and when it is asked again.")
	return nil
}

// due waits until a quarter of the token's life is left.
func (o *outage) due() error {
	wait := time.Until(o.vendors.Death(o.token).Add(-o.life / 4))
	if wait <= 0 {
		return nil
	}
	o.say("A fresher token is due when a quarter of the old one's life is left, in %.0f s …", wait.Seconds())
	select {
	case <-time.After(wait):
		return nil
	case <-o.ctx.Done():
		return o.ctx.Err()
	}
}

// back has the vendor come back.
func (o *outage) back(agent *vaultserver.Agent) error {
	o.say("## 9. The vendor comes back\n\n" +
		"The Agent reads again before its lease ends, and gets a fresh token, in some seconds …")
	o.vendors.Behave(vendorsim.Conduct{})
	if err := o.await(agent, func() bool { return o.rendered() != o.token }); err != nil {
		return fmt.Errorf("the Agent renders no fresh token: %w", err)
	}
	if err := o.accepted(o.cat()); err != nil {
		return err
	}
	status, err := o.shell.run("read", "sitecore/status/kiosk")
	if err != nil {
		return err
	}
	if state := field(status, "state"); state != "ok" {
		return fmt.Errorf("the state is %q, not ok", state)
	}
	return nil
}

// metrics shows what is left of the outage for Prometheus.
func (o *outage) metrics(*vaultserver.Agent) error {
	o.say("## 10. What Prometheus has seen of it")
	const lines = `^tokenbroker.*(sitecore.*(success|unavailable)|stale|kiosk)`
	o.say("$ %s read -format=raw sitecore/metrics | grep -E '%s'", o.name, lines)
	output, err := o.quiet("read", "-format=raw", "sitecore/metrics")
	if err != nil {
		return err
	}
	o.result(strings.Join(regexp.MustCompile(`(?m)`+lines+`.*$`).FindAllString(output, -1), "\n"))
	for _, counted := range []string{`sitecore",result="unavailable"`, `result="stale"`} {
		if !regexp.MustCompile(counted + `} [1-9]`).MatchString(output) {
			return fmt.Errorf("the metrics do not count %s", counted)
		}
	}
	return nil
}

// rendered is what the Agent's file holds.
func (o *outage) rendered() string {
	content, err := os.ReadFile(o.path)
	if err != nil {
		return "" // it is not there yet
	}
	return string(content)
}

// cat shows what the Agent's file holds.
func (o *outage) cat() string {
	content := o.rendered()
	fmt.Print("\n$ cat kiosk-token\n", indent(content))
	o.pause()
	return content
}

func (o *outage) accepted(token string) error {
	if !o.vendors.Accepts(token) {
		return errors.New("the vendor does not accept the token")
	}
	return nil
}

// await waits for what the Agent does: within a token's life on an idle machine.
func (o *outage) await(agent *vaultserver.Agent, condition func() bool) error {
	const patience = 5 * time.Minute
	deadline := time.After(o.life + patience)
	for !condition() {
		select {
		case <-agent.Ended():
			return errors.New("it has ended")
		case <-deadline:
			return fmt.Errorf("not in %s", o.life+patience)
		case <-o.ctx.Done():
			return o.ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}
