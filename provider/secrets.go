package provider

import (
	"context"
	"slices"
)

// maxKnown bounds the secrets in a context, in bytes, as the search for them takes time.
const maxKnown = 2 << 20

type knownSecrets struct{}

// WithSecrets returns a context with secrets that no error of a [Client] quotes, whether a
// request contains them or not. They are added to those of ctx. Secrets beyond a total of
// 2 MiB are not added.
func WithSecrets(ctx context.Context, secrets ...string) context.Context {
	known := slices.Clip(secretsOf(ctx))
	size := 0
	for _, secret := range known {
		size += len(secret)
	}
	for _, secret := range secrets {
		if size += len(secret); size > maxKnown {
			break
		}
		if secret != "" && !slices.Contains(known, secret) {
			known = append(known, secret)
		}
	}
	return context.WithValue(ctx, knownSecrets{}, known)
}

func secretsOf(ctx context.Context) []string {
	known, _ := ctx.Value(knownSecrets{}).([]string)
	return known
}
