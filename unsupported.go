package tokenbroker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/agext/levenshtein"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/oauth2"
)

// explain replaces the framework's error for a path or an operation that the engine does not have by
// one that says what to use instead. It returns other errors unchanged.
//
// An unknown path is a 400, because the vault command shows a 404 to a read only as "No value found".
func (b *backend) explain(ctx context.Context, req *logical.Request, err error) error {
	switch req.Operation {
	case logical.CreateOperation, logical.UpdateOperation, logical.PatchOperation, logical.ReadOperation, logical.ListOperation, logical.DeleteOperation:
	default:
		return err
	}
	switch {
	case errors.Is(err, logical.ErrUnsupportedOperation):
		return logical.CodedError(http.StatusMethodNotAllowed, b.unsupportedOperation(req))
	case errors.Is(err, logical.ErrUnsupportedPath):
		text, lookupErr := b.unknownPath(ctx, req)
		if lookupErr != nil {
			return lookupErr
		}
		return logical.CodedError(http.StatusBadRequest, text)
	}
	return err
}

// verbs are the operations as errors name them, by the command of the vault client.
var verbs = map[logical.Operation]string{
	logical.CreateOperation: "write", logical.UpdateOperation: "write", logical.PatchOperation: "patch",
	logical.ReadOperation: "read", logical.ListOperation: "list", logical.DeleteOperation: "delete",
}

// unsupportedOperation returns what the path of a request supports instead.
func (b *backend) unsupportedOperation(req *logical.Request) string {
	path := strings.Trim(req.Path, "/")
	var allowed []string
	for operation := range b.Route(req.Path).Operations {
		allowed = append(allowed, verbs[operation])
	}
	slices.Sort(allowed)
	text := fmt.Sprintf("%s does not support %s (allowed: %s)", path, verbs[req.Operation], strings.Join(slices.Compact(allowed), ", "))
	if isList := slices.Equal(allowed, []string{"list"}); isList && req.Operation != logical.ListOperation {
		return text + "; " + withName(path)
	}
	return text
}

// withName returns how to complete a path that lacks its name.
func withName(path string) string {
	if path == "config" {
		return fmt.Sprintf("a credential is at config/<vendor>/<name> (vendors: %s)", vendorList())
	}
	return "add a name: " + path + "/<name>"
}

// segments are the first segments of the engine's paths.
var segments = []string{"config", "creds", "keypair", "metrics", "refresh", "roles", "status", "token"}

// unknownPath returns what the path of a request may have meant.
func (b *backend) unknownPath(ctx context.Context, req *logical.Request) (string, error) {
	path := strings.Trim(req.Path, "/")
	first, rest, _ := strings.Cut(path, "/")
	switch {
	case path == "":
		return "the mount itself has no data; list one of config/, creds/, keypair/, roles/, status/ or token/", nil
	case !slices.Contains(segments, first):
		text := fmt.Sprintf("unknown path %s", provider.Quote(path))
		if near := nearest(first, segments); near != "" {
			return fmt.Sprintf("%s; did you mean %s?", text, strings.TrimSuffix(near+"/"+rest, "/")), nil
		}
		return fmt.Sprintf("%s (allowed: %s)", text, strings.Join(segments, ", ")), nil
	case first == "config":
		return b.unknownConfig(ctx, req.Storage, rest)
	case rest == "":
		return path + ": " + withName(path), nil
	}
	text := fmt.Sprintf("unknown path %s", provider.Quote(path))
	if at := strings.LastIndex(rest, "/"); at >= 0 && isName.MatchString(rest[at+1:]) && first != "keypair" {
		return fmt.Sprintf("%s; use the name without its vendor: %s/%s", text, first, rest[at+1:]), nil
	}
	return text + "; a name consists of letters, digits, dots, dashes and underscores", nil
}

// unknownConfig returns what a path below config/ may have meant.
func (b *backend) unknownConfig(ctx context.Context, s logical.Storage, rest string) (string, error) {
	vendor, name, _ := strings.Cut(rest, "/")
	isVendor := slices.Contains(providerNames(), vendor)
	switch {
	case isVendor && name == "":
		return withName("config/" + vendor), nil
	case isVendor:
		return fmt.Sprintf("unknown path %s; a name consists of letters, digits, dots, dashes and underscores", provider.Quote("config/"+rest)), nil
	case name == "": // the vendor may be missing
		switch owner, err := b.store.VendorOf(ctx, s, vendor); {
		case err != nil:
			return "", err
		case owner != "":
			return fmt.Sprintf("config/%s has no vendor; did you mean %s?", vendor, apipath.Credential(owner, vendor)), nil
		}
	}
	text := fmt.Sprintf("unknown vendor %s", provider.Quote(vendor))
	if name == "" {
		name = "<name>"
	}
	if preset, isKnown := oauth2.FindPreset(vendor); isKnown {
		return fmt.Sprintf("%s; %s is a preset: use config/oauth2/%s with preset=%s", text, preset.Title, name, preset.Name), nil
	}
	if near := nearest(vendor, providerNames()); near != "" {
		return fmt.Sprintf("%s; did you mean config/%s/%s?", text, near, name), nil
	}
	return text + "; " + withName("config"), nil
}

func vendorList() string {
	names := providerNames()
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// nearest returns the word that text is probably a misspelling of; "" if there is none.
func nearest(text string, words []string) string {
	const mostEdits = 2
	best := slices.MinFunc(words, func(a, b string) int {
		return levenshtein.Distance(text, a, nil) - levenshtein.Distance(text, b, nil)
	})
	if levenshtein.Distance(text, best, nil) > mostEdits {
		return ""
	}
	return best
}
