package sysview_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/pluginidentityutil"
	"github.com/hashicorp/vault/sdk/helper/pluginutil"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vault-plugin-secrets-tokenbroker/internal/sysview"
	"vault-plugin-secrets-tokenbroker/provider"
)

// issuing is a system view that issues identity tokens.
type issuing struct {
	logical.StaticSystemView
	asked pluginutil.IdentityTokenRequest
	token string
	err   error
}

func (v *issuing) GenerateIdentityToken(_ context.Context, r *pluginutil.IdentityTokenRequest) (*pluginutil.IdentityTokenResponse, error) {
	v.asked = *r
	if v.err != nil {
		return nil, v.err
	}
	return &pluginutil.IdentityTokenResponse{Token: pluginutil.IdentityToken(v.token), TTL: r.TTL}, nil
}

func TestAnIdentityTokenIsRequestedForItsAudienceAndTime(t *testing.T) {
	view := &issuing{token: "signed"}
	token, err := sysview.IdentityToken(t.Context(), view, "api://vendor", 5*time.Minute)
	require.NoError(t, err)
	assert.Equal(t, "signed", token)
	assert.Equal(t, pluginutil.IdentityTokenRequest{Audience: "api://vendor", TTL: 5 * time.Minute}, view.asked)
}

// A server without identity tokens answers through gRPC, which loses the identity of an error, or does not know
// the call.
func TestAServerWithoutIdentityTokensDiffersFromAFailure(t *testing.T) {
	unsupported := pluginidentityutil.ErrPluginWorkloadIdentityUnsupported
	for name, test := range map[string]struct {
		err  error
		kind provider.Kind
		says string
	}{
		"the community edition":            {unsupported, provider.Invalid, "need Vault Enterprise 1.16 or later; use a key pair with an issuer instead (keypair/<name>)"},
		"the community edition, over gRPC": {status.Error(codes.Internal, unsupported.Error()), provider.Invalid, "need Vault Enterprise"},
		"another server":                   {status.Error(codes.Unimplemented, "unknown method GenerateIdentityToken"), provider.Invalid, "need Vault Enterprise"},
		"a failure":                        {errors.New("no key yet"), provider.Unavailable, "the server issued no identity token: no key yet"},
		"a failure, over gRPC":             {status.Error(codes.Internal, "no key yet"), provider.Unavailable, "the server issued no identity token: no key yet"},
		"no token":                         {nil, provider.Unavailable, "the server issued no identity token"},
	} {
		_, err := sysview.IdentityToken(t.Context(), &issuing{err: test.err}, "api://vendor", time.Hour)
		var failure *provider.Error
		require.ErrorAs(t, err, &failure, name)
		assert.Equal(t, test.kind, failure.Kind, name)
		assert.Contains(t, failure.Reason, test.says, name)
	}
}
