package provider

import (
	"encoding/base64"
	"maps"
	"slices"
	"strings"
)

// CheckSecrets returns an error of kind InvalidResponse if the response would expose a
// secret, and nil otherwise. Readers see the access token, token_type and scope, which must
// not contain one of secrets. Status and logs also show token_type and scope, which must not
// contain one of tokens, nor a token of this response. A token with NotRenewable is the
// operator's own and is not checked.
func (a *Answer) CheckSecrets(secrets, tokens []string) *Error {
	if a.NotRenewable {
		return nil
	}
	if a.Grant != nil {
		secrets = append(slices.Clip(secrets), a.Grant.RefreshToken)
	}
	public := []shownText{{"token_type", a.TokenType}, {"scope", strings.Join(a.Scope, " ")}}
	for _, name := range slices.Sorted(maps.Keys(a.Extra)) {
		public = append(public, shownText{name, a.Extra[name]})
	}
	for _, shown := range append([]shownText{{"access token", a.AccessToken}}, public...) {
		if ContainsSecret(shown.text, secrets) {
			return Errorf(InvalidResponse, "the vendor's %s contains a secret of the credential, which readers must not see", shown.name)
		}
	}
	for _, public := range public {
		if ContainsSecret(public.text, append(slices.Clip(tokens), a.AccessToken, a.RefreshToken)) {
			return Errorf(InvalidResponse, "the vendor's %s contains a token, which status and logs would show", public.name)
		}
	}
	return nil
}

// A shownText is a part of a response that readers, status or logs show.
type shownText struct{ name, text string }

// ContainsSecret reports whether a text equals one of the secrets, or contains all of one,
// possibly escaped or encoded. A secret of fewer than 8 letters and digits counts only if it
// is the whole text.
func ContainsSecret(text string, secrets []string) bool {
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
		case secret == "" || len(secret) > maxEscaped && len(secret) > len(text): // does not fit into the text
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

// unarmoured returns the part of a secret that a token could contain: the base64 body of a
// private key in PEM, or any other secret as it is.
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
