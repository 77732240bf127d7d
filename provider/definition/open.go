package definition

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/exchange"
)

// A credential is an exchange with the vendor's rules for scopes, and how its API takes a token.
type credential struct {
	*exchange.Client
	api *provider.API // nil for the usual way

	rotation   *exchange.Rotation // nil if the secret cannot be replaced
	noRotation error              // why
}

// API implements provider.Presented.
func (c *credential) API() *provider.API { return c.api }

// Narrow implements provider.Credential.
func (c *credential) Narrow(scope []string) (provider.Credential, error) {
	narrow, err := c.Client.Narrow(scope)
	if err != nil {
		return nil, err
	}
	return &credential{Client: narrow.(*exchange.Client), api: c.api, noRotation: errNarrowed}, nil
}

// Fallback implements provider.Fallback.
func (c *credential) Fallback(last provider.Grant) provider.Credential {
	other, isClient := c.Client.Fallback(last).(*exchange.Client)
	if !isClient {
		return nil
	}
	return &credential{Client: other, api: c.api, noRotation: errNarrowed}
}

// errNarrowed is why the secret is replaced by the credential itself only.
var errNarrowed = provider.Errorf(provider.Invalid, "only the whole credential is rotated")

// Open implements provider.Provider.
func (p *Provider) Open(s provider.Settings) (provider.Credential, error) {
	var given map[string]json.RawMessage
	if err := provider.DecodeFields(s.Fields, &given); err != nil {
		return nil, err
	}
	o := &opening{d: p.Definition, given: given, settings: s, values: exchange.Values{}}
	c, err := o.open()
	if err != nil {
		return nil, err
	}
	if err := o.addRotation(c); err != nil {
		return nil, err
	}
	return c, nil
}

// open returns the credential, without its rotation.
func (o *opening) open() (*credential, error) {
	if err := o.readFields(); err != nil {
		return nil, err
	}
	if err := o.chooseGrant(); err != nil {
		return nil, err
	}
	if err := o.checkFields(); err != nil {
		return nil, err
	}
	client, err := o.client()
	if err != nil {
		return nil, err
	}
	api, err := o.api()
	if err != nil {
		return nil, err
	}
	return &credential{Client: client, api: api}, nil
}

// An opening is the work of Open.
type opening struct {
	d        *Definition
	given    map[string]json.RawMessage
	settings provider.Settings
	values   exchange.Values
	secrets  []string
	grant    *grant
	missing  string // a field that a role must set
}

// isGiven reports whether the operator set a field.
func (o *opening) isGiven(name string) bool {
	raw := o.given[name]
	return raw != nil && string(raw) != "null" && string(raw) != `""`
}

// readFields checks the value of each field.
func (o *opening) readFields() error {
	for _, name := range sortedKeys(o.d.fields) {
		f := o.d.fields[name]
		value, err := f.value(o.given[name], o.d)
		if err != nil {
			return err
		}
		if value == nil {
			continue
		}
		o.values[name] = value
		if text, isText := value.(string); isText && f.Secret {
			o.secrets = append(o.secrets, text)
		}
	}
	return nil
}

// chooseGrant chooses the grant that the operator named, or the first whose needs are set.
func (o *opening) chooseGrant() error {
	if len(o.d.compiled) == 1 {
		o.grant = o.d.compiled[0]
		return nil
	}
	if o.isGiven("grant_type") {
		var named string
		if err := provider.DecodeFields(o.given["grant_type"], &named); err != nil {
			return err
		}
		for _, g := range o.d.compiled {
			if g.given.GrantType == named {
				o.grant = g
				return nil
			}
		}
		return provider.Errorf(provider.Invalid, "grant_type: unknown grant type %s (allowed: %s)", provider.Quote(named), strings.Join(o.d.GrantTypes(), ", "))
	}
	for _, g := range o.d.compiled { // redirect_uri is for a consent only
		if g.consent != nil && o.isGiven("redirect_uri") && !slices.Contains(g.uses, "redirect_uri") {
			o.grant = g
			return nil
		}
	}
	for _, g := range o.d.compiled {
		if !slices.ContainsFunc(g.given.Needs, func(name string) bool { return o.values[name] == nil }) {
			o.grant = g
			return nil
		}
	}
	// The one that lacks the fewest fields is probably meant.
	o.grant = slices.MinFunc(o.d.compiled, func(a, b *grant) int { return o.lacks(a) - o.lacks(b) })
	return nil
}

// lacks returns how many of the fields that a grant needs are not set.
func (o *opening) lacks(g *grant) int {
	n := 0
	for _, name := range g.given.Needs {
		if o.values[name] == nil && !o.d.fields[name].Narrows {
			n++
		}
	}
	return n
}

// checkFields checks that what the grant needs is set, and nothing that it ignores.
func (o *opening) checkFields() error {
	needs := slices.Clone(o.grant.given.Needs)
	for _, name := range append(clientFields(o.grant.auth), o.grant.needsKeyless()...) {
		if !slices.Contains(needs, name) {
			needs = append(needs, name)
		}
	}
	for _, name := range sortedKeys(o.d.fields) {
		if o.d.fields[name].Required && !slices.Contains(needs, name) {
			needs = append(needs, name)
		}
	}
	missing := slices.DeleteFunc(needs, func(name string) bool {
		isLeft := o.values[name] == nil && o.d.fields[name].Narrows
		if isLeft {
			o.missing = name
		}
		return o.values[name] != nil || isLeft || name == "refresh_token" && o.canConsent()
	})
	if len(missing) > 0 {
		name, with, others := missing[0], "", ""
		if len(o.d.compiled) > 1 {
			with = " with grant_type=" + o.grant.given.GrantType
		}
		if len(missing) > 1 {
			others = "; also " + strings.Join(missing[1:], ", ")
		}
		return provider.Errorf(provider.Invalid, "%s: must be set%s: %s%s", name, with, strings.TrimSuffix(o.d.fields[name].Description, "."), others)
	}
	for _, name := range sortedKeys(o.d.fields) {
		if o.isGiven(name) && !o.grant.usesField(o.d, name) {
			return provider.Errorf(provider.Invalid, `%s: is not used with grant_type=%s; omit it, or clear it with %s=""`, name, o.grant.given.GrantType, name)
		}
	}
	return o.checkScope()
}

// clientFields returns the fields that client authentication needs.
func clientFields(auth string) []string {
	switch {
	case auth == "client_secret" || slices.Contains(exchange.SecretStyles, auth):
		return []string{"client_id", "client_secret"}
	case auth == exchange.PrivateKeyJWT:
		return []string{"client_id"}
	case auth == exchange.IdentityToken:
		return []string{"client_id", identityAudience}
	case auth == exchange.TLSClientAuth:
		return []string{"client_id", "certificate", "private_key"}
	}
	return nil
}

// checkScope checks the scopes by the vendor's rules, and sets the default.
func (o *opening) checkScope() error {
	rules := o.scopeRules()
	if o.values["scope"] == nil && len(rules.Default) > 0 && o.d.fields["scope"] != nil {
		o.values["scope"] = rules.Default
	}
	scope := o.scope()
	if err := provider.CheckScope("scope", scope); err != nil {
		return err
	}
	for _, one := range scope {
		if rules.Separator != "" && strings.Contains(one, rules.Separator) {
			return provider.Errorf(provider.Invalid, "scope: %s are several scopes; separate them with commas here (the engine sends %q between them)", provider.Quote(one), rules.Separator)
		}
		if !strings.HasSuffix(one, rules.Suffix) {
			return provider.Errorf(provider.Invalid, "scope: invalid scope %s for %s; give one that ends with %s, such as %s",
				provider.Quote(one), o.d.Title, rules.Suffix, cmp.Or(strings.Join(rules.Default, " "), "https://api.example.com"+rules.Suffix))
		}
	}
	if rules.Single && len(scope) > 1 {
		return provider.Errorf(provider.Invalid, "scope: %s allows one scope for a token; store a credential for each", o.d.Title)
	}
	return nil
}

func (o *opening) scope() []string {
	if !slices.Contains(o.grant.uses, "scope") {
		return nil
	}
	scope, _ := o.values["scope"].([]string)
	return scope
}

// text returns the value of a field as text; "" if it is not set.
func (o *opening) text(name string) string {
	text, _ := o.values[name].(string)
	return text
}

// client returns the exchange.
func (o *opening) client() (*exchange.Client, error) {
	g, d := o.grant, o.d
	if separator := o.scopeRules().Separator; separator != "" {
		o.values[exchange.ScopeSeparator] = separator
	}
	c := &exchange.Client{
		HTTP:                o.settings.Client.WithErrors(d.TransientErrors, g.errorAt).WithLimit(d.RequestsPerSecond),
		Server:              &exchange.Server{Field: o.urlField()},
		GrantType:           g.given.GrantType,
		Missing:             o.missing,
		ID:                  o.text("client_id"),
		Secret:              o.text("client_secret"),
		AuthStyle:           g.auth,
		Values:              o.values,
		Secrets:             o.secrets,
		Scopes:              o.scope(),
		Reading:             g.reading,
		IsSelfSigned:        g.given.Token != "",
		OnTheHour:           d.Token.OnTheHour,
		DefaultTTL:          time.Duration(d.Token.DefaultTTL),
		InvalidatesPrevious: d.Token.Single,
		RenewalWindow:       time.Duration(d.Token.RefreshWindow),
	}
	if d.Token.Reused {
		c.RenewalWindow = time.Nanosecond // the vendor returns the same token before it expires
	}
	if g.auth == exchange.TLSClientAuth {
		mutual, err := c.HTTP.WithCertificate(o.text("certificate"), o.text("private_key"))
		if err != nil {
			return nil, err
		}
		c.HTTP = mutual
	}
	if g.auth == "client_secret" {
		c.AuthStyle = ""
	}
	if slices.Contains(g.uses, "refresh_token") && g.refresh == nil {
		c.Refresh = o.text("refresh_token")
	}
	if c.Refresh != "" {
		c.IdleExpiry = time.Duration(d.RefreshToken.IdleExpiry)
		c.MaxTokenAge = time.Duration(d.RefreshToken.Lifetime)
	}
	for _, prepare := range []func(*exchange.Client) error{o.addKeyless, o.addBasic, o.addRequests, o.addDelegation, o.addAssertions, o.addConsent} {
		if err := prepare(c); err != nil {
			return nil, err
		}
	}
	if c.AuthStyle == exchange.SecretBasicUnencoded && strings.Contains(c.ID, ":") {
		given := "client_id"
		if len(g.basic) > 0 {
			given = cmp.Or(strings.Join(g.basic[0].Names(), ", "), "basic")
		}
		return nil, provider.Errorf(provider.Invalid, "%s: contains a colon, which HTTP Basic cannot carry", given)
	}
	return c, nil
}

// addBasic sets what HTTP Basic sends.
func (o *opening) addBasic(c *exchange.Client) error {
	if len(o.grant.basic) == 0 {
		return nil
	}
	for i, to := range []*string{&c.ID, &c.Secret} {
		text, err := o.grant.basic[i].Fill(o.values)
		if err != nil {
			return err
		}
		*to = text
	}
	c.AuthStyle = exchange.SecretBasicUnencoded
	return nil
}

// addRequests sets the requests and their URLs.
func (o *opening) addRequests(c *exchange.Client) (err error) {
	g := o.grant
	for _, given := range g.before {
		next := exchange.Step{Request: given.Request, Keep: given.keep}
		if next.URL, err = exchange.FillURL(given.url, o.values); err != nil {
			return err
		}
		c.Before = append(c.Before, next)
	}
	if g.request != nil {
		c.Request = g.request.Request
		if c.Server.Token, err = exchange.FillURL(g.request.url, o.values); err != nil {
			return err
		}
	}
	if g.refresh != nil {
		again := g.refresh.Request
		if again.URL, err = exchange.FillURL(g.refresh.url, o.values); err != nil {
			return err
		}
		c.Again, c.AgainReading = &again, g.refreshReading
	}
	if g.revocation != nil {
		c.Revocation, c.RevocationAuth = &g.revocation.Request, g.revocationAuth
		if c.Server.Revocation, err = exchange.FillURL(g.revocation.url, o.values); err != nil {
			return err
		}
	}
	for _, url := range append([]string{c.Server.Token, c.Server.Revocation}, stepURLs(c)...) {
		if url == "" {
			continue
		}
		if err := provider.CheckURL(cmp.Or(o.urlField(), "token_url"), url); err != nil {
			return err
		}
	}
	return nil
}

func stepURLs(c *exchange.Client) []string {
	var urls []string
	for _, step := range c.Before {
		urls = append(urls, step.URL)
	}
	if c.Again != nil {
		urls = append(urls, c.Again.URL)
	}
	return urls
}

// urlField returns the field that URLs depend on; "" if there is none.
func (o *opening) urlField() string {
	for _, url := range o.d.urls() {
		for _, name := range sortedKeys(o.d.fields) {
			if strings.Contains(url, "{"+name) {
				return name
			}
		}
	}
	return ""
}

func contains(list []string, one string) bool { return slices.Contains(list, one) }
