package sysview

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/helper/pluginidentityutil"
	"github.com/hashicorp/vault/sdk/helper/pluginutil"
	"github.com/hashicorp/vault/sdk/logical"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vault-plugin-secrets-tokenbroker/provider"
)

// IdentityToken returns a new identity token of the server, with an audience and a time to live. It implements
// provider.IdentityTokenFunc.
func IdentityToken(ctx context.Context, view logical.SystemView, audience string, ttl time.Duration) (string, error) {
	response, err := view.GenerateIdentityToken(ctx, &pluginutil.IdentityTokenRequest{Audience: audience, TTL: ttl})
	switch {
	case isUnsupported(err):
		return "", provider.Errorf(provider.Invalid, "identity_token_audience: this server issues no identity tokens, which need Vault Enterprise 1.16 or later; "+
			"use a key pair with an issuer instead (keypair/<name>)")
	case err != nil:
		return "", provider.Errorf(provider.Unavailable, "the server issued no identity token: %s", reason(err))
	case response == nil || response.Token.Token() == "":
		return "", provider.Errorf(provider.Unavailable, "the server issued no identity token")
	}
	return response.Token.Token(), nil
}

// isUnsupported reports whether the server has no identity tokens: as Vault's community edition says it, and
// as a server does that does not know the call. An error has only its text after the way to the plugin.
func isUnsupported(err error) bool {
	return err != nil && (errors.Is(err, pluginidentityutil.ErrPluginWorkloadIdentityUnsupported) ||
		strings.Contains(err.Error(), pluginidentityutil.ErrPluginWorkloadIdentityUnsupported.Error()) ||
		status.Code(err) == codes.Unimplemented)
}

// reason returns the text of an error without what the way to the plugin adds.
func reason(err error) string {
	if s, isStatus := status.FromError(err); isStatus {
		return s.Message()
	}
	return err.Error()
}
