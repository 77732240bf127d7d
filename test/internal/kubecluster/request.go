package kubecluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
)

// A StatusError is an answer of the API server other than success.
type StatusError struct {
	Code    int
	Message string
}

func (e *StatusError) Error() string { return fmt.Sprintf("status %d: %s", e.Code, e.Message) }

// Get reads an object of the API as an administrator. into may be nil. An answer other than success is a *StatusError.
func (c *Cluster) Get(ctx context.Context, path string, into any) error {
	return c.request(ctx, http.MethodGet, path, nil, into)
}

// Post creates an object as an administrator. The errors are those of Get.
func (c *Cluster) Post(ctx context.Context, path string, body, into any) error {
	return c.request(ctx, http.MethodPost, path, body, into)
}

func (c *Cluster) request(ctx context.Context, method, path string, body, into any) error {
	content, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+c.Address()+path, bytes.NewReader(content))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err
	case resp.StatusCode >= http.StatusMultipleChoices:
		return &StatusError{resp.StatusCode, strings.TrimSpace(string(answer))}
	case into == nil:
		return nil
	}
	return json.Unmarshal(answer, into)
}

// Kubectl runs kubectl as an administrator with an input, and returns what it prints.
func (c *Cluster) Kubectl(ctx context.Context, input string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, "kubectl"), args...)
	cmd.Env = append(cmd.Environ(), c.Environment()...)
	cmd.Stdin = strings.NewReader(input)
	output, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, output)
	}
	return string(output), err
}

// Environment returns the variables with which kubectl is an administrator of the cluster. kubectl keeps its caches in the
// folder of the cluster.
func (c *Cluster) Environment() []string {
	return []string{"KUBECONFIG=" + c.file("kubeconfig"), "KUBECACHEDIR=" + c.file("cache")}
}
