package tokenbroker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/agext/levenshtein"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/catalogue"
)

// explain replaces the framework's error for a path or an operation that the engine does not have by
// one that says what to use instead. It returns other errors unchanged.
//
// An unknown path is a 400, because the vault command shows a 404 to a read only as "No value found".
func (b *backend) explain(ctx context.Context, req *logical.Request, err error) error {
	if verbs[req.Operation] == "" {
		return err
	}
	path := strings.Trim(req.Path, "/")
	route := b.Route(req.Path)
	if route == nil {
		route = b.Route(path) // Vault appends a slash to the path of a list
	}
	switch {
	case !errors.Is(err, logical.ErrUnsupportedOperation) && !errors.Is(err, logical.ErrUnsupportedPath):
		return err
	case route != nil && !b.lacksVendor(ctx, req.Storage, path):
		return logical.CodedError(http.StatusMethodNotAllowed, unsupportedOperation(req.Operation, path, route))
	}
	text, err := b.unknownPath(ctx, req, path)
	if err != nil {
		return err
	}
	return logical.CodedError(http.StatusBadRequest, text)
}

// lacksVendor reports whether a path is config/<name>, as that of a credential without its vendor.
func (b *backend) lacksVendor(ctx context.Context, s logical.Storage, path string) bool {
	vendor, isConfig := strings.CutPrefix(path, "config/")
	if !isConfig || strings.Contains(vendor, "/") {
		return false
	}
	p, err := b.store.Vendor(ctx, s, vendor)
	return err == nil && p == nil
}

// verbs are the operations as errors name them, by the command of the vault client.
var verbs = map[logical.Operation]string{
	logical.CreateOperation: "write", logical.UpdateOperation: "write", logical.PatchOperation: "patch",
	logical.ReadOperation: "read", logical.ListOperation: "list", logical.DeleteOperation: "delete",
}

// unsupportedOperation returns what the path of a request supports instead.
func unsupportedOperation(operation logical.Operation, path string, route *framework.Path) string {
	var allowed []string
	for supported := range route.Operations {
		if verbs[supported] != "" { // a HEAD has none
			allowed = append(allowed, verbs[supported])
		}
	}
	slices.Sort(allowed)
	allowed = slices.Compact(allowed)
	text := fmt.Sprintf("%s does not support %s (allowed: %s)", shownPath(path), verbs[operation], strings.Join(allowed, ", "))
	if isList := slices.Equal(allowed, []string{"list"}); isList {
		return text + "; " + withName(path)
	}
	return text
}

// withName returns how to complete a path that lacks its name.
func withName(path string) string {
	if path == "config" {
		return "a credential is at config/<vendor>/<name>; vendors/ lists the vendors"
	}
	return "add a name: " + path + "/<name>"
}

const nameRule = "a name consists of letters, digits and . - _ @ +, and begins and ends with a letter, a digit or _"

// unknownPath returns what a path may have meant. Its parts may be secrets in the wrong place, so the
// text holds only those that look like names.
func (b *backend) unknownPath(ctx context.Context, req *logical.Request, path string) (string, error) {
	first, rest, _ := strings.Cut(path, "/")
	text := "unknown path " + provider.Quote(path)
	switch firsts := b.firstSegments(); {
	case path == "":
		return "the mount itself has no data (paths: " + strings.Join(firsts, ", ") + ")", nil
	case !slices.Contains(firsts, first):
		near, err := b.likelyPath(ctx, req, path, firsts)
		if near == "" || err != nil {
			return fmt.Sprintf("%s (allowed: %s)", text, strings.Join(firsts, ", ")), err
		}
		return fmt.Sprintf("%s; did you mean %s?", text, near), nil
	case first == "config":
		return b.unknownConfig(ctx, req.Storage, rest)
	case b.Route(first) != nil && b.Route(first+"/") == nil: // a path without names
		return fmt.Sprintf("%s; did you mean %s?", text, first), nil
	case rest == "":
		return path + ": " + withName(path), nil
	}
	name, extra, _ := strings.Cut(rest, "/")
	switch {
	case isVendor(name) && apipath.IsName(extra):
		return fmt.Sprintf("%s; use the name without its vendor: %s/%s", text, first, shown(extra)), nil
	case extra != "" && first == "keypair":
		return fmt.Sprintf("%s; did you mean keypair/%s/activate?", text, shown(name)), nil
	}
	return text + "; " + nameRule, nil
}

// unknownConfig returns what a path below config/ may have meant.
func (b *backend) unknownConfig(ctx context.Context, s logical.Storage, rest string) (string, error) {
	vendor, name, hasName := strings.Cut(rest, "/")
	known, err := b.store.Vendor(ctx, s, vendor)
	switch {
	case err != nil:
		return "", err
	case known != nil && name == "":
		return withName("config/" + vendor), nil
	case known != nil:
		return fmt.Sprintf("unknown path %s; %s", provider.Quote("config/"+rest), nameRule), nil
	case !hasName && apipath.IsName(vendor): // the vendor may be missing
		switch owner, err := b.store.VendorOf(ctx, s, vendor); {
		case err != nil:
			return "", err
		case owner != "":
			return fmt.Sprintf("config/%s has no vendor; did you mean config/%s/%s?", shown(vendor), owner, shown(vendor)), nil
		}
	}
	return unknownVendor(vendor, name), nil
}

// unknownVendor returns what an unknown vendor in the path of a credential may have meant.
func unknownVendor(vendor, name string) string {
	text := fmt.Sprintf("unknown vendor %s", provider.Quote(vendor))
	near := nearest(vendor, builtInNames(), max(1, min(len(vendor)/4, mostEdits)))
	if meant := catalogue.Find(vendor); meant != nil {
		near = meant.Name()
	}
	if near != "" {
		return fmt.Sprintf("%s; did you mean config/%s/%s?", text, near, shown(name))
	}
	return text + "; vendors/ lists the vendors; config/oauth2/<name> is for any other server that speaks OAuth 2.0"
}

// maxShown is the length of the longest part of a path that an error shows.
const maxShown = 40

// shown returns a part of a path for the text of an error: a name as it is, and <name> in place of
// anything else.
func shown(part string) string {
	if len(part) > maxShown || !apipath.IsName(part) {
		return "<name>"
	}
	return part
}

// synonyms are other words for the first segments of the engine's paths.
var synonyms = map[string]string{
	"credential": "config", "credentials": "config", "client": "clients",
	"key": "keypair", "keys": "keypair", "key-pair": "keypair", "key_pair": "keypair",
	"renew": "refresh", "rotate": "refresh",
	"delegate": "exchange", "delegation": "exchange", "token-exchange": "exchange", "token_exchange": "exchange", "obo": "exchange",
}

// likelyPath returns the path that was probably meant by one with an unknown first segment, for the
// text of an error; "" if there is none.
func (b *backend) likelyPath(ctx context.Context, req *logical.Request, path string, firsts []string) (string, error) {
	first, rest, _ := strings.Cut(path, "/")
	meant, isSynonym := synonyms[strings.ToLower(first)]
	if !isSynonym {
		meant = nearest(strings.ToLower(first), firsts, mostEdits)
	}
	isOneName := rest != "" && !strings.Contains(rest, "/") && builtIn(rest) == nil
	switch {
	case meant == "":
		return "", nil
	case meant == "config" && isOneName && isSynonym && req.Operation == logical.ReadOperation: // a reader wants a token
		meant = "creds"
	case meant == "config" && isOneName:
		vendor, err := b.vendorOf(ctx, req.Storage, rest)
		return "config/" + vendor + "/" + shown(rest), err
	}
	return strings.TrimSuffix(meant+"/"+shownPath(rest), "/"), nil
}

// vendorOf returns the vendor of a credential for a path in an error; <vendor> if there is no such
// credential.
func (b *backend) vendorOf(ctx context.Context, s logical.Storage, name string) (string, error) {
	if !apipath.IsName(name) {
		return "<vendor>", nil
	}
	vendor, err := b.store.VendorOf(ctx, s, name)
	return cmp.Or(vendor, "<vendor>"), err
}

// shownPath returns a path for the text of an error.
func shownPath(path string) string {
	if path == "" {
		return ""
	}
	parts := strings.Split(path, "/")
	for i, part := range parts {
		parts[i] = shown(part)
	}
	return strings.Join(parts, "/")
}

// firstSegments returns the first segments of the engine's paths, sorted.
func (b *backend) firstSegments() []string {
	var firsts []string
	for _, path := range b.Paths {
		first, _, _ := strings.Cut(path.Pattern, "/")
		firsts = append(firsts, strings.Trim(first, "^?$"))
	}
	slices.Sort(firsts)
	return slices.Compact(firsts)
}

// isVendor reports whether a part of a path is the name of a vendor.
func isVendor(part string) bool { return builtIn(part) != nil || catalogue.Find(part) != nil }

// mostEdits is how many characters of a misspelled word may be wrong, missing or too many.
const mostEdits = 2

// nearest returns the word from which text differs least, by at most the given number of characters;
// "" if there is none.
func nearest(text string, words []string, edits int) string {
	if len(words) == 0 {
		return ""
	}
	best := slices.MinFunc(words, func(a, b string) int {
		return levenshtein.Distance(text, a, nil) - levenshtein.Distance(text, b, nil)
	})
	if levenshtein.Distance(text, best, nil) > edits {
		return ""
	}
	return best
}
