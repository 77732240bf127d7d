package credential

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/storage"
	"vault-plugin-secrets-tokenbroker/provider"
)

// A Client is an OAuth client that credentials share, in storage. A credential with client=<name> has
// the client's fields as if they were its own.
type Client struct {
	storage.Format

	Vendor string `json:"vendor"`

	// Settings and Secrets are UUIDs. Settings changes with each field that is not part of the client's
	// authentication, so that tokens from before are void. Secrets changes with those that are.
	Settings string `json:"settings"`
	Secrets  string `json:"secrets"`

	// Fields are the fields that the operator set, including secrets. SecretFields are the names of the
	// secret ones among them. They stay secret whatever another definition of the vendor says.
	Fields       map[string]any `json:"fields"`
	SecretFields []string       `json:"secret_fields,omitempty"`

	// Formers are what Fields and Secrets were before the last changes of the authentication, latest first,
	// until the new one has worked for all credentials.
	Formers []FormerClient `json:"formers,omitempty"`

	// SecretsTime is when Secrets last changed. Rotation is the state of the rotation of the secret; nil if there
	// was none.
	SecretsTime time.Time `json:"secrets_time,omitzero"`
	Rotation    *Rotation `json:"rotation,omitempty"`

	// SentTo are the destinations of the secrets. A credential cannot add to them.
	SentTo Destinations `json:"sent_to,omitempty"`

	Description string `json:"description,omitempty"`

	// ReapAfter is how long the vendor must have rejected a credential for it to be deleted; 0 for never.
	ReapAfter time.Duration `json:"reap_after,omitempty"`
}

// A FormerClient is what a client was before a change of its authentication.
type FormerClient struct {
	Fields  map[string]any `json:"fields"`
	Secrets string         `json:"secrets"`
}

// maxFormers is how many former authentications of a client are kept: operators correct mistakes, and vendors
// have few secrets at a time.
const maxFormers = 2

// Check implements storage.Entry.
func (c *Client) Check() error {
	if c.Vendor == "" || c.Fields == nil || c.Settings == "" || c.Secrets == "" || c.ReapAfter < 0 {
		return errors.New("client without a vendor, fields or versions")
	}
	return c.Rotation.check()
}

// clientField is the field with the name of the client that a credential uses.
const clientField = "client"

// clientSchema returns the field with the name of a client.
func clientSchema() *framework.FieldSchema {
	return &framework.FieldSchema{
		Type:         framework.TypeString,
		Description:  "Name of the client at clients/<name> whose fields the credential uses. The credential cannot set the same fields, except scope, expires, request_timeout, default_ttl, max_ttl and keepalive_interval.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Client"},
	}
}

// ownFields are the fields of a credential that a client cannot have: each credential has its own.
var ownFields = []string{"refresh_token", clientField, "description"}

// defaultFields are the fields for which a client only has the default.
var defaultFields = []string{"scope", "expires", "request_timeout", "default_ttl", "max_ttl", "keepalive_interval"}

// authenticationFields are the fields that change together with a secret and say which it is. Without
// proofFields, which are like secrets, they are nothing to go back to.
var (
	authenticationFields = append([]string{"key_id", "signing_algorithm", "auth_style", "expires"}, proofFields...)
	proofFields          = []string{"keypair", "private_key_source", "certificate"}
)

// CheckHasClients returns an error of kind Invalid unless credentials of a vendor can share a client.
func CheckHasClients(p provider.Provider) error {
	if FieldSchemas(p)[clientField] == nil {
		return provider.Errorf(provider.Invalid, "vendor: a credential of %s has no OAuth client to share", p.Name())
	}
	return nil
}

// ClientFieldSchemas returns the fields of a vendor's clients.
func ClientFieldSchemas(p provider.Provider) map[string]*framework.FieldSchema {
	fields := maps.Clone(FieldSchemas(p))
	for _, field := range ownFields {
		delete(fields, field)
	}
	return fields
}

const repairClient = "write the client again, with all its fields"

func getClient(ctx context.Context, s logical.Storage, name string) (*Client, error) {
	return storage.Get[Client](ctx, s, storage.ClientKey(name), repairClient)
}

// isAuthentication reports whether a field is part of the client's authentication: a secret, or one
// that says which it is.
func isAuthentication(p provider.Provider, field string) bool {
	return IsSecret(FieldSchemas(p)[field]) || slices.Contains(authenticationFields, field)
}

// isProof reports whether a field proves who the client is.
func isProof(p provider.Provider, field string) bool {
	return IsSecret(FieldSchemas(p)[field]) || slices.Contains(proofFields, field)
}

// A clientUse is the client of a credential, as it was read.
type clientUse struct {
	name string
	*Client

	err        error        // why Client is nil
	formerKeys []signingKey // of Formers
}

// readClientUse reads a client for the credentials that use it; nil for an empty name. Its error is of type
// *storage.Error or *storage.NewerFormatError. A missing or damaged client is not an error: the credential
// then has none, and can be repaired by a write.
func readClientUse(ctx context.Context, s logical.Storage, name string) (*clientUse, error) {
	if name == "" {
		return nil, nil
	}
	c, err := getClient(ctx, s, name)
	var newer *storage.NewerFormatError
	switch {
	case storage.IsError(err) || errors.As(err, &newer):
		return nil, err
	case err != nil:
		return &clientUse{name: name, err: err}, nil
	case c == nil:
		return &clientUse{name: name, err: provider.Errorf(provider.Invalid, "client: %s does not exist; create it first", apipath.Client(provider.List([]string{name})))}, nil
	}
	use := &clientUse{name: name, Client: c}
	for _, former := range c.Formers {
		key, _, err := readKey(ctx, s, keypairOf("", former.Fields))
		if err != nil {
			return nil, err
		}
		use.formerKeys = append(use.formerKeys, key)
	}
	return use, nil
}

// path returns the path of the client, as operators write it.
func (u *clientUse) path() string { return apipath.Client(u.name) }

// clientName returns the name of the client that the credential uses; "" if it uses none.
func (c *storedCredential) clientName() string { return c.text(clientField) }

// version returns what identifies the state of the client.
func (u *clientUse) version() broker.ClientVersion {
	if u == nil || u.Client == nil {
		return broker.ClientVersion{}
	}
	return broker.ClientVersion{Settings: u.Settings, Secrets: u.Secrets}
}

// version returns what identifies the state of the client and of the key pair that the credential uses.
func (c *storedCredential) version() broker.ClientVersion {
	version := c.client.version()
	version.Identity = c.key.identity
	return version
}

// withFields returns the use of a client that has other fields, and no former ones.
func (u *clientUse) withFields(fields map[string]any) *clientUse {
	client := *u.Client
	client.Fields, client.Formers = fields, nil
	return &clientUse{name: u.name, Client: &client}
}

// hasKeypair reports whether the client has a generated key pair.
func (u *clientUse) hasKeypair() bool {
	return u != nil && u.Client != nil && keypairOf("", u.Fields) != ""
}

// fields returns the fields of a credential, with those of its client. Its errors are of kind Invalid.
func (c *storedCredential) fields() (map[string]any, error) {
	switch {
	case c.client == nil:
		return c.Fields, nil
	case c.client.err != nil:
		return nil, c.client.err
	case c.client.Vendor != c.vendor.Name():
		return nil, provider.Errorf(provider.Invalid, "client: %s is a client of %s; store the credential at %s", c.client.path(), c.client.Vendor, apipath.Credential(c.client.Vendor, c.name))
	}
	fields := maps.Clone(c.client.Fields)
	for _, field := range rotationFields { // of the client's own secret
		delete(fields, field)
	}
	for field, value := range c.Fields {
		if _, isSet := fields[field]; isSet && !slices.Contains(defaultFields, field) {
			return nil, provider.Errorf(provider.Invalid, `%s: is set by %s; omit it, or clear it with %s=""`, field, c.client.path(), field)
		}
		fields[field] = value
	}
	delete(fields, clientField)
	return fields, nil
}

// setting returns the value of a text field of the credential or its client; "" if it is not set.
func (c *storedCredential) setting(field string) string {
	if own := c.text(field); own != "" || c.client == nil || c.client.Client == nil {
		return own
	}
	text, _ := c.client.Fields[field].(string)
	return text
}

// withFormer returns the credential as it was before a change of its client's authentication.
func (c *storedCredential) withFormer(i int) *storedCredential {
	former, fields := *c, c.client.Formers[i].Fields
	former.client = c.client.withFields(fields)
	if c.client.hasKeypair() || keypairOf("", fields) != "" {
		former.key = signingKey{}
		if i < len(c.client.formerKeys) {
			former.key = c.client.formerKeys[i]
		}
	}
	return &former
}

// checkClient returns an error if the credential would send the secrets of its client elsewhere than the
// client does. (Guarantee 13.)
func (c *storedCredential) checkClient(to Destinations) error {
	if c.client == nil {
		return nil
	}
	if added := to.beyond(c.client.SentTo); len(added) > 0 {
		return provider.Errorf(provider.Invalid, "client: with these fields, the secrets of %s would be sent to a new destination: %.300s; give them to the client, or use no client", c.client.path(), added)
	}
	return nil
}

// refreshTokenOf stands for the refresh token of a credential when a client is opened by itself.
const refreshTokenOf = "refresh-token-of-a-credential"

// destinations returns where the credentials of a client send its secrets. Its errors are of kind
// Invalid.
func (st *Store) destinations(p provider.Provider, name string, fields map[string]any, key signingKey) (Destinations, error) {
	use := &clientUse{name: name, Client: &Client{Vendor: p.Name(), Fields: fields}}
	own := &storedCredential{Entry: &Entry{}, vendor: p, name: name, client: use, key: key, isClient: true}
	var to Destinations
	opened, err := st.openUnchecked(own)
	if err == nil {
		to = opened.SentTo
	}
	if FieldSchemas(p)["refresh_token"] != nil {
		own.Entry = &Entry{Fields: map[string]any{"refresh_token": refreshTokenOf}}
		withToken, tokenErr := st.openUnchecked(own)
		if tokenErr == nil {
			return append(to, Destinations(withToken.SentTo).beyond(to)...), nil
		}
		if err != nil {
			err = tokenErr
		}
	}
	return to, err
}
