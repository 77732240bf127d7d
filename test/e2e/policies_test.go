//go:build e2e

package e2e

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// request is a kind of request that Vault's policies can distinguish. The operation rotate is a
// write of only a new secret.
type request struct{ operation, path string }

// activation is the request that the engine refuses, also if the policy allows it: no credential
// uses the key pair.
var activation = request{"write", "keypair/spare/activate"}

// requests are in an order in which all others can succeed.
var requests = []request{
	{"write", "config/kensho/prod"},
	{"patch", "config/kensho/prod"},
	{"rotate", "config/kensho/prod"},
	{"read", "config/kensho/prod"},
	{"list", "config"},
	{"list", "config/kensho"},
	{"list", "vendors"},
	{"read", "vendors/entra"},
	{"write", "keypair/spare"},
	{"write", "keypair/spare"},
	activation,
	{"read", "keypair/spare"},
	{"list", "keypair"},
	{"delete", "keypair/spare"},
	{"write", "roles/app"},
	{"patch", "roles/app"},
	{"read", "roles/app"},
	{"list", "roles"},
	{"write", "refresh/prod"},
	{"drop", "refresh/prod"},
	{"read", "status/prod"},
	{"list", "status"},
	{"read", "metrics"},
	{"read", "creds/prod"},
	{"read", "creds/app"},
	{"read", "token/prod"},
	{"read", "token/app"},
	{"delete", "roles/app"},
	{"delete", "config/kensho/prod"},
}

func TestExamplePoliciesGrantOnlyWhatTheyDocument(t *testing.T) {
	m := enable(t, "kensho")
	data := map[string]map[string]any{
		"config/kensho/prod": m.kensho(),
		"roles/app":          {"config": "prod"},
	}
	ask := func(client *api.Client, r request) error {
		var err error
		ctx, logical, path := context.Background(), client.Logical(), m.path+"/"+r.path
		switch r.operation {
		case "write":
			_, err = logical.WriteWithContext(ctx, path, data[r.path])
		case "rotate":
			_, err = logical.WriteWithContext(ctx, path, map[string]any{"refresh_token": refreshToken})
		case "drop":
			_, err = logical.WriteWithContext(ctx, path, map[string]any{"drop": true})
		case "patch":
			_, err = logical.JSONMergePatch(ctx, path, data[r.path])
		case "read":
			_, err = logical.ReadRawWithContext(ctx, path) // metrics are not JSON
		case "list":
			_, err = logical.ListWithContext(ctx, path)
		case "delete":
			_, err = logical.DeleteWithContext(ctx, path)
		}
		return err
	}

	granted := map[string]func(request) bool{
		"app.hcl":            func(r request) bool { return r == request{"read", "creds/prod"} },
		"app-lease-free.hcl": func(r request) bool { return r == request{"read", "token/prod"} },
		"monitoring.hcl":     func(r request) bool { return r.path == "status" || r.path == "status/prod" },
		"metrics.hcl":        func(r request) bool { return r == request{"read", "metrics"} },
		"responder.hcl": func(r request) bool {
			return r == request{"write", "refresh/prod"} || r.path == "status" || r.path == "status/prod"
		},
		"leak.hcl": func(r request) bool {
			return r.path == "refresh/prod" || r.path == "status" || r.path == "status/prod"
		},
		"rotator.hcl": func(r request) bool { return r.operation == "rotate" || r.path == "status/prod" },
		"operator.hcl": func(r request) bool {
			return !slices.Contains([]string{"creds/prod", "creds/app", "token/prod", "token/app"}, r.path)
		},
	}
	files, err := filepath.Glob("../../examples/policies/*.hcl")
	require.NoError(t, err)
	assert.Len(t, granted, len(files), "a policy is not tested")
	for file, grants := range granted {
		t.Run(file, func(t *testing.T) {
			policy, err := os.ReadFile("../../examples/policies/" + file)
			require.NoError(t, err)
			require.NoError(t, m.root.Sys().PutPolicyWithContext(t.Context(), "example", string(policy)))
			holder := m.client("example")
			for _, r := range requests {
				err := ask(holder, r)
				switch {
				case grants(r) && r == activation:
					assertStatus(t, http.StatusBadRequest, "no credential uses keypair/spare", err)
				case grants(r):
					require.NoError(t, err, r)
				default:
					require.Error(t, err, r)
					assertStatus(t, http.StatusForbidden, "permission denied", err)
					if r != activation { // the later requests need its effect
						require.NoError(t, ask(m.root, r))
					}
				}
			}
		})
	}
}
