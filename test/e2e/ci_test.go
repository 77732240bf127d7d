//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/test/internal/customer"
	"vault-plugin-secrets-tokenbroker/test/internal/docwalk"
)

// A workflow has what the tests need of a workflow of GitHub Actions.
type workflow struct {
	Env  map[string]string
	Jobs map[string]struct {
		Steps []struct {
			Name, Run string
			Env       map[string]string
		}
	}
}

// ofTheExample is the workflow that reads from Vault.
const ofTheExample = "../../examples/ci/github-actions.yml"

// A gitlabJob has what the tests need of the job in examples/ci/gitlab-ci.yml.
type gitlabJob struct {
	Variables map[string]string
	IDTokens  map[string]struct{ Aud string } `yaml:"id_tokens"`
	Secrets   map[string]struct {
		Vault struct {
			Engine      struct{ Name, Path string }
			Path, Field string
		}
		Token string
	}
	Script []string
}

// A ciSystem runs jobs. They reach Vault and the vendor's API at the URLs of the examples.
type ciSystem struct {
	*pageReader
	api     *vendorAPI
	environ []string
	ref     string // for which a workflow runs
	secrets map[string]string

	workflow string // the file of it
}

const requestToken = "request-token-of-the-run"

// newCISystem follows docs/ci.md, and returns a system whose jobs can log in then.
func newCISystem(t *testing.T) *ciSystem {
	t.Helper()
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	r := newPageReader(t, root, vaultserver.StartDev)
	require.NoError(t, r.own.register(t.Context()))
	require.NoError(t, r.follow(parsePage(t, root, "docs/ci.md")))
	address, err := url.Parse(r.own.server.Address)
	require.NoError(t, err)
	vault := httputil.NewSingleHostReverseProxy(address)
	c := &ciSystem{pageReader: r, api: &vendorAPI{sim: r.sim, tokens: map[string]int{}}}
	c.environ = append(behindProxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Host {
		case "vault.example.com":
			vault.ServeHTTP(w, r)
		case "actions.example.com":
			c.identify(w, r)
		case "api.example.com":
			c.api.ServeHTTP(w, r)
		default:
			c.customer.ServeHTTP(w, r)
		}
	}), nil), "PATH="+os.Getenv("PATH"), "HOME="+t.TempDir())
	return c
}

func readYAML(t *testing.T, file string, into any) {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(content, into))
}

// run runs a script as a job does, and returns what it prints.
func (c *ciSystem) run(script string, environ ...string) (string, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script)
	cmd.Env = append(append([]string{}, c.environ...), environ...)
	output, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, output)
	}
	return string(output), err
}

// identify answers as the URL does at which GitHub gives a run its identity tokens.
func (c *ciSystem) identify(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "bearer "+requestToken {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	token, err := c.customer.JobToken(customer.GitHub, r.FormValue("audience"), map[string]any{
		"sub": "repo:acme/report:ref:" + c.ref, "repository": "acme/report", "ref": c.ref,
		"job_workflow_ref": "acme/report/.github/workflows/" + c.workflow + "@" + c.ref,
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"count": len(token), "value": token})
}

// aSecret is an expression that GitHub replaces by the value of a secret.
var aSecret = regexp.MustCompile(`\$\{\{ secrets\.(\w+) \}\}`)

// runWorkflow runs the steps of the workflow in a file source for a ref, as if the name of the file were this one.
func (c *ciSystem) runWorkflow(source, file, ref string) (printed string, err error) {
	c.t.Helper()
	c.workflow, c.ref = file, ref
	var w workflow
	readYAML(c.t, source, &w)
	variables := filepath.Join(c.t.TempDir(), "env")
	require.NoError(c.t, os.WriteFile(variables, nil, 0o600))
	for _, step := range w.Jobs["report"].Steps {
		all := []string{
			"GITHUB_ENV=" + variables,
			"ACTIONS_ID_TOKEN_REQUEST_URL=https://actions.example.com/token?api-version=2.0", "ACTIONS_ID_TOKEN_REQUEST_TOKEN=" + requestToken,
		}
		for name, value := range w.Env {
			all = append(all, name+"="+value)
		}
		for name, value := range step.Env {
			all = append(all, name+"="+aSecret.ReplaceAllStringFunc(value, func(expression string) string {
				return c.secrets[aSecret.FindStringSubmatch(expression)[1]]
			}))
		}
		content, err := os.ReadFile(variables)
		require.NoError(c.t, err)
		for lines := bufio.NewScanner(bytes.NewReader(content)); lines.Scan(); {
			all = append(all, lines.Text())
		}
		output, err := c.run(step.Run, all...)
		printed += output
		if err != nil {
			return printed, fmt.Errorf("%s: %w", step.Name, err)
		}
	}
	return printed, nil
}

func TestAWorkflowOfGitHubActionsReadsAToken(t *testing.T) {
	t.Parallel()
	c := newCISystem(t)
	printed, err := c.runWorkflow(ofTheExample, "report.yml", "refs/heads/main")
	require.NoError(t, err)
	tokens, refused := c.api.sent()
	assert.Zero(t, refused)
	require.Len(t, tokens, 1)
	for token := range tokens {
		assert.Contains(t, printed, "::add-mask::"+token)
	}
	for _, other := range []struct{ file, ref string }{{"report.yml", "refs/heads/other"}, {"other.yml", "refs/heads/main"}} {
		_, err = c.runWorkflow(ofTheExample, other.file, other.ref)
		require.ErrorContains(t, err, "error validating claims")
	}

	// The log of a job has nothing of an answer that is not a token.
	require.NoError(t, c.own.root.Sys().UnmountWithContext(t.Context(), "kensho"))
	const other = "password-of-another-application"
	c.own.storeInKV(t, "kensho", "token/prod", other)
	_, err = c.runWorkflow(ofTheExample, "report.yml", "refs/heads/main")
	require.ErrorContains(t, err, "the answer has no http_header")
	assert.NotContains(t, err.Error(), other)
}

func TestAJobOfGitLabReadsAToken(t *testing.T) {
	t.Parallel()
	c := newCISystem(t)
	var jobs map[string]gitlabJob
	readYAML(t, "../../examples/ci/gitlab-ci.yml", &jobs)
	job := jobs["report"]
	run := func(change func(claims map[string]any)) error {
		t.Helper()
		claims := map[string]any{"sub": "project_path:acme/report", "project_path": "acme/report", "ref_protected": "true"}
		change(claims)
		variables := map[string]string{}
		for name, token := range job.IDTokens {
			var err error
			variables[name], err = c.customer.JobToken(customer.GitLab, token.Aud, claims)
			require.NoError(t, err)
		}
		environ := []string{}
		for name, value := range job.Variables {
			environ = append(environ, name+"="+value)
		}
		for name, secret := range job.Secrets {
			value, err := c.secretOf(job, secret.Vault.Engine.Name, secret.Vault.Engine.Path, secret.Vault.Path, secret.Vault.Field, variables[strings.TrimPrefix(secret.Token, "$")])
			if err != nil {
				return err
			}
			environ = append(environ, name+"="+value)
		}
		_, err := c.run(strings.Join(job.Script, "\n"), environ...)
		return err
	}
	require.NoError(t, run(func(map[string]any) {}))
	tokens, refused := c.api.sent()
	assert.Zero(t, refused)
	assert.Len(t, tokens, 1)
	for message, change := range map[string]func(claims map[string]any){
		`claim "project_path" does not match`:                 func(claims map[string]any) { claims["project_path"] = "acme/other" },
		`claim "ref_protected" does not match`:                func(claims map[string]any) { claims["ref_protected"] = "false" },
		"audience claim does not match any expected audience": func(claims map[string]any) { claims["aud"] = "https://other.example.com" },
		"invalid issuer (iss) claim":                          func(claims map[string]any) { claims["iss"] = customer.GitHub },
	} {
		require.ErrorContains(t, run(change), message)
	}
	tokens, _ = c.api.sent()
	assert.Len(t, tokens, 1)
}

// secretOf reads a secret as the Runner does, for which GitLab has filled in the variables of the job.
func (c *ciSystem) secretOf(job gitlabJob, engine, mount, path, field, jwt string) (string, error) {
	c.t.Helper()
	secret, err := json.Marshal(map[string]any{
		"server": map[string]any{
			"url":  job.Variables["VAULT_SERVER_URL"],
			"auth": map[string]any{"name": "jwt", "path": job.Variables["VAULT_AUTH_PATH"], "data": map[string]any{"jwt": jwt, "role": job.Variables["VAULT_AUTH_ROLE"]}},
		},
		"engine": map[string]any{"name": engine, "path": mount}, "path": path, "field": field,
	})
	require.NoError(c.t, err)
	cmd := exec.CommandContext(c.t.Context(), os.Getenv("GITLAB_SECRET"))
	cmd.Env = c.environ
	cmd.Stdin = bytes.NewReader(secret)
	var printed bytes.Buffer
	cmd.Stderr = &printed
	value, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, printed.String())
	}
	return string(value), err
}

// movedWorkflow writes the workflow that docs/from-ci-secret.md begins with to a file.
func movedWorkflow(t *testing.T) (file string) {
	t.Helper()
	page, err := os.ReadFile("../../docs/from-ci-secret.md")
	require.NoError(t, err)
	found := regexp.MustCompile("(?s)\n```yaml file=[^\n]+\n(.*?\n)```\n").FindSubmatch(page)
	require.NotNil(t, found)
	file = filepath.Join(t.TempDir(), "report.yml")
	require.NoError(t, os.WriteFile(file, found[1], 0o600))
	return file
}

// A job with a secret of the CI system and a job that reads from Vault succeed side by side. The replacement of the
// secret, at the end of the move, reaches the second one with the commands of the page.
func TestJobsSucceedDuringTheMoveFromACISecret(t *testing.T) {
	t.Parallel()
	const old, next, main = "refresh-token-of-kensho-0123456789", "next-refresh-token-of-kensho-0123456789", "refs/heads/main"
	c, before := newCISystem(t), movedWorkflow(t)
	c.secrets = map[string]string{"KENSHO_REFRESH_TOKEN": old}
	succeed := func(workflow string) {
		t.Helper()
		_, err := c.runWorkflow(workflow, "report.yml", main)
		require.NoError(t, err)
	}
	page := parsePage(t, c.root, "docs/from-ci-secret.md").Without(docwalk.Setup)
	succeed(before)
	require.NoError(t, c.follow(page))
	succeed(before)
	succeed(ofTheExample)

	c.sim.AddRefreshToken("link-streaming", next)
	c.pageReader.environ = append(c.pageReader.environ, "KENSHO_REFRESH_TOKEN="+next)
	require.NoError(t, c.follow(page))
	succeed(before)
	ofOld, _ := c.api.sent()
	succeed(ofTheExample)
	all, _ := c.api.sent()
	assert.Greater(t, len(all), len(ofOld), "a token of the next refresh token")
	c.sim.RevokeCredential(old)
	succeed(ofTheExample)
	_, err := c.runWorkflow(before, "report.yml", main)
	require.ErrorContains(t, err, "Exchange the refresh token: exit status")
	require.ErrorContains(t, err, "error: 401")
	_, refused := c.api.sent()
	assert.Zero(t, refused)
	assert.Empty(t, c.sim.Violations(), "requests that no vendor documents")
}
