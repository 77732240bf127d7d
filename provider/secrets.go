package provider

import (
	"context"
	"slices"
)

// maxKnown bounds the secrets that a context has, in bytes: looking for them takes time.
const maxKnown = 2 << 20

type knownSecrets struct{}

// WithSecrets returns a context in which no error of a [Client] quotes any of the secrets,
// nor of those that ctx has already, whether a request carries them or not. Those past 2 MiB
// in all are left out, the last ones first.
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
