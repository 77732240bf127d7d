package provider

import (
	"encoding/base64"
	"slices"
	"strings"
)

// CheckSecrets refuses an answer that shows one of the credential's own secrets to readers, or
// one of its tokens, those of this answer among them, where all can see it. Its error is nil, or
// of kind InvalidResponse. A token that is final is the operator's own.
func (a *Answer) CheckSecrets(secrets, tokens []string) *Error {
	if a.NotRenewable {
		return nil
	}
	if a.Grant != nil {
		secrets = append(slices.Clip(secrets), a.Grant.RefreshToken)
	}
	for _, shown := range []struct{ name, text string }{
		{"access token", a.AccessToken}, {"token_type", a.TokenType}, {"scope", strings.Join(a.Scope, " ")},
	} {
		if holdsSecret(shown.text, secrets) {
			return Errorf(InvalidResponse, "the vendor's %s holds a secret of the credential, which no reader may get", shown.name)
		}
	}
	for _, public := range []struct{ name, text string }{{"token_type", a.TokenType}, {"scope", strings.Join(a.Scope, " ")}} {
		if holdsSecret(public.text, append(slices.Clip(tokens), a.AccessToken, a.RefreshToken)) {
			return Errorf(InvalidResponse, "the vendor's %s holds a token, which status and logs would show", public.name)
		}
	}
	return nil
}

// holdsSecret is whether a text is one of some secrets, or has one of them in it as a whole,
// escaped or encoded. What is shorter than minRun may be in any text.
func holdsSecret(text string, secrets []string) bool {
	layers := []string{text}
	for range maxEscapes {
		last := layers[len(layers)-1]
		if !strings.ContainsAny(last, `&\%`) {
			break
		}
		layers = append(layers, escape.ReplaceAllStringFunc(last, unescaped))
	}
	var whole, bare []string
	for _, layer := range layers {
		whole, bare = append(whole, plain(layer, isSeparator)), append(bare, plain(layer, isSeparatorOrSign))
	}
	isIn := func(layers []string, form string) bool {
		return len(form) >= minRun && slices.ContainsFunc(layers, func(layer string) bool { return strings.Contains(layer, form) })
	}
	for _, secret := range secrets {
		secret = unarmoured(secret)
		switch {
		case secret == "" || len(secret) > maxEscaped && len(secret) > len(text): // the text cannot hold it
			continue
		case strings.EqualFold(text, secret):
			return true
		}
		for _, form := range escapedForms(secret) {
			if isIn(whole, plain(form, isSeparator)) {
				return true
			}
		}
		for _, form := range encodings(secret) {
			if isIn(bare, plain(form, isSeparatorOrSign)) {
				return true
			}
		}
	}
	return false
}

// unarmoured is what of a secret a token can hold: of a private key in PEM, in any form that
// is accepted, the key in base64.
func unarmoured(secret string) string {
	if !strings.Contains(secret, isPrivate) {
		return secret
	}
	blocks, _ := readPEM(secret)
	for _, block := range blocks {
		if strings.HasSuffix(block.label, isPrivate) {
			return base64.RawStdEncoding.EncodeToString(block.der)
		}
	}
	return secret
}
