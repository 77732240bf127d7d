package tokenbroker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/identitytpl"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/credential"
	"vault-plugin-secrets-tokenbroker/provider"
)

// narrowing returns what the role's tokens are for.
func (r *role) narrowing() provider.Narrowing {
	return provider.Narrowing{Scope: r.Scope, Fields: r.Fields}
}

func textsOf(value any) []string {
	var texts []string
	list, _ := value.([]any)
	for _, text := range list {
		texts = append(texts, text.(string))
	}
	return texts
}

// setField sets the value of a field of the credential; nil clears it. A patch merges maps.
func (r *role) setField(field string, value any, op credential.Operation) {
	last, wasMap := r.Fields[field].(map[string]any)
	if given, isMap := value.(map[string]any); isMap && wasMap && op == credential.Patch {
		next := maps.Clone(last)
		maps.Copy(next, given)
		value = next
	}
	if entries, isMap := value.(map[string]any); isMap {
		entries = maps.Clone(entries)
		maps.DeleteFunc(entries, func(_ string, one any) bool { return one == nil })
		if value = entries; len(entries) == 0 {
			value = nil
		}
	}
	if r.Fields == nil {
		r.Fields = map[string]any{}
	}
	if r.Fields[field] = value; value == nil {
		delete(r.Fields, field)
	}
}

// checkNarrowing returns an error if the credential cannot issue the role's tokens.
func (r *role) checkNarrowing(c *broker.Credential) error {
	if len(r.Scope) == 0 && len(r.Fields) == 0 {
		return nil
	}
	if r.isTemplated && c.UsesRefreshToken {
		return provider.Errorf(provider.Invalid, "%s: a template by identity needs a credential that proves itself for each token; %s has a refresh token, which is one person's or service's", templatedField(r.Fields), c.Path)
	}
	if r.isTemplated { // what the templates yield is checked when a reader is known
		plain := maps.Clone(r.Fields)
		maps.DeleteFunc(plain, func(field string, value any) bool { return hasTemplate(map[string]any{field: value}) })
		_, err := c.Narrow(provider.Narrowing{Scope: r.Scope, Fields: plain})
		return errors.Join(err, checkTemplates(r.Fields))
	}
	_, err := c.Narrow(r.narrowing())
	return err
}

// checkParams returns an error if readers could not set one of allowed_params.
func (r *role) checkParams(narrowing map[string]*framework.FieldSchema) error {
	for _, field := range r.AllowedParams {
		if narrowing[field] == nil && field != "scope" {
			return provider.Errorf(provider.Invalid, "allowed_params: %s is not a field that narrows the tokens of %s (allowed: %s)",
				provider.Quote(field), provider.Quote(r.Config), strings.Join(append(sortedKeys(narrowing), "scope"), ", "))
		}
	}
	return nil
}

// roleSchema returns the fields of a write to a role: its own, and those of its credential's vendor that
// narrow tokens. last is the role before the write.
func (b *backend) roleSchema(ctx context.Context, req *logical.Request, last *role) (map[string]*framework.FieldSchema, error) {
	config, _ := req.Data["config"].(string)
	if config == "" {
		config = last.Config
	}
	fields := roleFields()
	own, err := b.narrowingFields(ctx, req.Storage, config)
	if err != nil {
		return nil, err
	}
	maps.Copy(fields, own)
	return fields, nil
}

// narrowingFields returns the fields that narrow the tokens of a credential; none if there is no such
// credential.
func (b *backend) narrowingFields(ctx context.Context, s logical.Storage, config string) (map[string]*framework.FieldSchema, error) {
	if !apipath.IsName(config) {
		return nil, nil
	}
	vendor, err := b.store.VendorOf(ctx, s, config)
	if err != nil || vendor == "" {
		return nil, err
	}
	p, err := b.store.Vendor(ctx, s, vendor)
	if err != nil || p == nil {
		return nil, err
	}
	return credential.RoleSchemas(p), nil
}

// roleFieldsOf returns the fields that a request to a role may have.
func (b *backend) roleFieldsOf(ctx context.Context, req *logical.Request, name string) (map[string]*framework.FieldSchema, error) {
	last, err := getRole(ctx, req.Storage, name)
	if err != nil || last == nil {
		last = &role{}
	}
	return b.roleSchema(ctx, req, last)
}

// readFieldsOf returns the fields that a read of a token may have.
func (b *backend) readFieldsOf(ctx context.Context, req *logical.Request, name string) (map[string]*framework.FieldSchema, error) {
	fields := readFields()
	r, err := b.roleFor(ctx, req.Storage, name)
	if err != nil {
		return fields, nil //nolint:nilerr // the read reports it
	}
	own, err := b.narrowingFields(ctx, req.Storage, r.Config)
	if err != nil {
		return nil, err
	}
	maps.Copy(fields, own)
	return fields, nil
}

// readNarrowing returns what the token of a read is for: what the role has, with its templates filled for
// the reader, narrowed by what the reader asks for.
func (b *backend) readNarrowing(ctx context.Context, req *logical.Request, d *framework.FieldData, r *role) (provider.Narrowing, error) {
	n := provider.Narrowing{Scope: r.Scope, Fields: maps.Clone(r.Fields)}
	if r.isTemplated {
		var err error
		if n.Fields, err = b.filled(req.EntityID, r.Fields); err != nil {
			return n, err
		}
	}
	asked := maps.Clone(d.Raw)
	delete(asked, "name")
	delete(asked, "min_ttl")
	if len(asked) == 0 {
		return n, nil
	}
	schema, err := b.readFieldsOf(ctx, req, nameIn(d))
	if err != nil {
		return n, err
	}
	fields, err := givenFields(&framework.FieldData{Raw: asked, Schema: schema})
	if err != nil {
		return n, err
	}
	c, err := b.store.Credential(ctx, req.Storage, r.Config)
	switch {
	case err != nil:
		return n, err
	case c == nil:
		return n, broker.ErrUnknown
	}
	vendor, err := b.store.Vendor(ctx, req.Storage, c.VendorName)
	if err != nil {
		return n, err
	}
	for _, field := range sortedKeys(fields) {
		if err := checkSpace(field, asked[field]); err != nil {
			return n, provider.Errorf(provider.Invalid, "%s", err)
		}
		if fields[field] == nil { // it must not stand for everything, which a policy may require a reader to narrow
			return n, provider.Errorf(provider.Invalid, "%s: must not be empty; omit it for all that the role has", field)
		}
		if err := r.ask(&n, c, field, fields[field], provider.RoleFieldsOf(vendor)[field].Adds); err != nil {
			return n, err
		}
	}
	return n, nil
}

// ask narrows n to what a reader asks for in a field. adds is whether its entries are parameters that a request has in
// addition to the others.
func (r *role) ask(n *provider.Narrowing, c *broker.Credential, field string, value any, adds bool) error {
	whole, whose := n.Fields[field], "the role"
	if whole == nil {
		whole, whose = c.RoleFields[field], "the credential"
	}
	if field == "scope" {
		whole, whose = listOf(r.Scope), "the role"
		if len(r.Scope) == 0 {
			whole, whose = listOf(strings.Fields(c.Scope)), "the credential"
		}
	}
	if whole == nil && !slices.Contains(r.AllowedParams, field) {
		return provider.Errorf(provider.Invalid, "%s: neither the role nor the credential sets it, so a reader may only with a role that has %s in allowed_params", field, field)
	}
	if err := provider.CheckWithin(field, value, whole, whose); err != nil {
		return err
	}
	if field == "scope" {
		n.Scope = textsOf(value)
		return nil
	}
	if _, isMap := n.Fields[field].(map[string]any); isMap && adds {
		return nil // a request with fewer entries is not narrower, so that the reader gets all of the role's
	}
	if n.Fields == nil {
		n.Fields = map[string]any{}
	}
	n.Fields[field] = value
	return nil
}

// listOf returns texts as storage has them; nil if there are none.
func listOf(texts []string) any {
	if len(texts) == 0 {
		return nil
	}
	list := make([]any, len(texts))
	for i, text := range texts {
		list[i] = text
	}
	return list
}

// maxRereads is how often a read begins again because the variant was pruned or dropped meanwhile.
const maxRereads = 5

// readVariant reads the token of a credential for one reader.
func (b *backend) readVariant(ctx context.Context, s logical.Storage, config string, n provider.Narrowing, request broker.ReadRequest) (*broker.IssuedToken, error) {
	request.Scope, request.IsChosen = "", false // all of the variant
	for range maxRereads {
		variant, err := b.store.Variant(ctx, s, config, n)
		if err != nil {
			return nil, err
		}
		issued, err := b.broker.Read(ctx, s, variant, request)
		if !errors.Is(err, broker.ErrUnknown) { // otherwise it was pruned in between
			return issued, err
		}
	}
	return nil, broker.ErrUnknown
}

// A template of a role's field is a text in which {{identity…}} stands for the reader's identity, as in
// policies.

// hasTemplate reports whether a value is a template.
func hasTemplate(fields map[string]any) bool { return templatedField(fields) != "" }

// templatedField returns the name of the first field with a template; "" if there is none.
func templatedField(fields map[string]any) string {
	for _, field := range sortedKeys(fields) {
		is := false
		_, _ = eachText(fields[field], func(text string) (string, error) {
			is = is || strings.Contains(text, "{{")
			return text, nil
		})
		if is {
			return field
		}
	}
	return ""
}

var (
	placeholder = regexp.MustCompile(`\{\{(.*?)\}\}`)

	// identityName matches what Vault's templates know of an identity.
	identityName = regexp.MustCompile(`^identity\.(entity\.(id|name|metadata\..+|aliases\.[^.]+\.(id|name|(custom_)?metadata\..+))|groups\.(ids|names)\.[^.]+\.(id|name|metadata\..+))$`)
)

// checkTemplates returns an error for a text that is not a valid template.
func checkTemplates(fields map[string]any) error {
	for _, field := range sortedKeys(fields) {
		_, err := eachText(fields[field], func(text string) (string, error) {
			_, err := framework.ValidateIdentityTemplate(text) // that the braces are balanced
			for _, m := range placeholder.FindAllStringSubmatch(text, -1) {
				if name := strings.TrimSpace(m[1]); !identityName.MatchString(name) {
					err = errors.Join(err, fmt.Errorf("{{%s}} is unknown", name))
				}
			}
			return text, err
		})
		if err != nil {
			return provider.Errorf(provider.Invalid, "%s: is not a template as Vault's policies have them (such as {{identity.entity.name}} or {{identity.entity.aliases.<accessor>.name}}): %s", field, err)
		}
	}
	return nil
}

// filled returns fields with their templates filled for a reader. Its error is a 403 if the reader has no
// identity, or not what a template needs.
func (b *backend) filled(entityID string, fields map[string]any) (map[string]any, error) {
	forbidden := func(reason string) error {
		return logical.CodedError(http.StatusForbidden, "the role's tokens depend on the reader's identity, and "+reason)
	}
	if entityID == "" {
		return nil, forbidden("this token of Vault has no entity; log in by an auth method (root tokens and batch tokens without an entity have none)")
	}
	entity, err := b.System().EntityInfo(entityID)
	if err != nil {
		return nil, err
	}
	if entity == nil {
		return nil, forbidden("its entity does not exist any more")
	}
	groups, err := b.groupsFor(entityID, fields)
	if err != nil {
		return nil, err
	}
	all := map[string]any{}
	for _, field := range sortedKeys(fields) {
		all[field], err = eachText(fields[field], func(text string) (string, error) {
			return fillText(text, entity, groups)
		})
		if err != nil {
			return nil, forbidden(fmt.Sprintf("the reader has nothing for %s: %s", field, err))
		}
	}
	return all, nil
}

// fillText fills the templates of a text, each of which must yield something: readers of whom nothing is known would
// otherwise have the same token.
func fillText(text string, entity *logical.Entity, groups []*logical.Group) (filled string, err error) {
	filled = placeholder.ReplaceAllStringFunc(text, func(one string) string {
		_, out, failed := identitytpl.PopulateString(identitytpl.PopulateStringInput{String: one, Entity: entity, Groups: groups, Mode: identitytpl.ACLTemplating})
		if failed == nil && strings.TrimSpace(out) == "" {
			failed = errors.New("is empty")
		}
		err = cmp.Or(err, failed)
		return out
	})
	return filled, err
}

// groupsFor returns the groups of an entity if a template needs them.
func (b *backend) groupsFor(entityID string, fields map[string]any) ([]*logical.Group, error) {
	needs := false
	for _, value := range fields {
		_, _ = eachText(value, func(text string) (string, error) {
			needs = needs || strings.Contains(text, "identity.groups")
			return text, nil
		})
	}
	if !needs {
		return nil, nil
	}
	return b.System().GroupsForEntity(entityID)
}

// eachText returns a value with f applied to each text in it.
func eachText(value any, f func(string) (string, error)) (any, error) {
	switch value := value.(type) {
	case string:
		return f(value)
	case []any:
		list := make([]any, len(value))
		for i, one := range value {
			next, err := eachText(one, f)
			if err != nil {
				return nil, err
			}
			list[i] = next
		}
		return list, nil
	case map[string]any:
		entries := map[string]any{}
		for name, one := range value {
			next, err := eachText(one, f)
			if err != nil {
				return nil, err
			}
			entries[name] = next
		}
		return entries, nil
	}
	return value, nil
}
