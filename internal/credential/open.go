package credential

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/provider"
)

// commonFields are the fields common to the credentials of all vendors.
type commonFields struct {
	Description    string           `json:"description"`
	Expires        string           `json:"expires"`
	RequestTimeout provider.Seconds `json:"request_timeout"`
	CACert         string           `json:"ca_cert"`
	ProxyURL       string           `json:"proxy_url"`
	DefaultTTL     provider.Seconds `json:"default_ttl"`
	MaxTTL         provider.Seconds `json:"max_ttl"`
	MaxVariants    int              `json:"max_variants"`

	RotationPeriod   provider.Seconds  `json:"rotation_period"`
	RotationSchedule string            `json:"rotation_schedule"`
	RotationWindow   provider.Seconds  `json:"rotation_window"`
	RotationGrace    *provider.Seconds `json:"rotation_grace"` // nil for the default

	// KeepaliveInterval is nil for the default.
	KeepaliveInterval *provider.Seconds `json:"keepalive_interval"`
}

// open returns a credential ready to be exchanged. Its errors are *provider.Error of kind Invalid,
// or the error of its key pair or client.
func (st *Store) open(c *storedCredential) (*broker.Credential, error) {
	credential, err := st.openUnchecked(c)
	if err != nil {
		return nil, err
	}
	if err := c.checkClient(credential.SentTo); err != nil {
		return nil, err
	}
	if c.client == nil {
		st.openRotated(c, credential)
		return credential, nil
	}
	for i, former := range c.client.Formers {
		opened, err := st.openUnchecked(c.withFormer(i))
		if err == nil && Destinations(opened.SentTo).within(credential.SentTo) {
			credential.Formers = append(credential.Formers, broker.Former{Vendor: opened.Vendor, WithFields: opened.WithFields, Secrets: former.Secrets})
			credential.Secrets = append(credential.Secrets, opened.Secrets...)
		}
	}
	return credential, nil
}

// openUnchecked is open without a look at where the client sends its secrets, or at its former ones.
func (st *Store) openUnchecked(c *storedCredential) (*broker.Credential, error) {
	given, err := c.vendorFields()
	if err != nil {
		return nil, err
	}
	fields, common, err := decodeCommon(given)
	if err != nil {
		return nil, err
	}
	if timeout := common.RequestTimeout.Duration(); timeout < time.Second || timeout > maxRequestTimeout {
		return nil, provider.Errorf(provider.Invalid, "request_timeout: must be from 1s to %s", maxRequestTimeout)
	}
	if common.MaxVariants < 0 || common.MaxVariants > maxMaxVariants {
		return nil, provider.Errorf(provider.Invalid, "max_variants: must be from 1 to %d", maxMaxVariants)
	}
	if err := checkDescription(common.Description); err != nil {
		return nil, err
	}
	expires, err := parseExpires(common.Expires)
	if err != nil {
		return nil, err
	}
	plan, err := common.rotationPlan()
	if err != nil {
		return nil, err
	}
	client, err := provider.NewClient(provider.ClientOptions{
		Timeout:   common.RequestTimeout.Duration(),
		CACert:    common.CACert,
		ProxyURL:  common.ProxyURL,
		Transport: st.options.Transport,
		Dial:      st.options.Dial,
		Clocks:    &st.clocks,
		Pacer:     st.broker.Pacer(),
	})
	if err != nil {
		return nil, err
	}
	settings := provider.Settings{
		Fields: fields, WriteTime: c.WriteTime, Client: client, IdentityToken: st.options.IdentityToken,
		Thumbprint: c.key.thumbprint(), Issuer: c.key.issuer(), Subject: c.path(),
	}
	vendor, err := c.vendor.Open(settings)
	if err != nil {
		return nil, c.keypairError(err)
	}
	to := destinationsOf(vendor, common.CACert)
	if err := c.key.check(c, to, vendor); err != nil {
		return nil, err
	}
	keepalive, err := keepaliveInterval(common.KeepaliveInterval, vendor.MaxIdle())
	if err != nil {
		return nil, err
	}
	return &broker.Credential{
		Name:        c.name,
		Path:        apipath.Credential(c.vendor.Name(), c.name),
		VendorName:  c.vendor.Name(),
		Generation:  c.Generation,
		WriteTime:   c.WriteTime,
		Expires:     c.expiry(expires, latestExpiry(vendor, c.RefreshTokenTime)),
		Description: common.Description,
		TTL:         provider.TTL{Default: common.DefaultTTL.Duration(), Max: common.MaxTTL.Duration()},
		Keepalive:   keepalive,
		Secrets:     secretsOf(c.vendor, given),
		Vendor:      vendor,
		HTTP:        client,
		Scope:       provider.JoinScope(vendor.Scope()),
		SentTo:      to,
		API:         apiOf(vendor),
		Verified:    c.Verified,
		Rotation:    c.rotationStatus(plan),
		Keypair:     c.keypairName(),
		WithFields:  c.withRoleFields(given, settings, to, common.CACert),
		RoleFields:  roleFields(c.vendor, given),
		MaxVariants: cmp.Or(common.MaxVariants, defaultMaxVariants),

		UsesRefreshToken: given["refresh_token"] != nil || needsRefreshToken(vendor),
		Client:           c.clientName(),
		Version:          c.version(),
	}, nil
}

// decodeCommon returns fields in JSON, and those common to all vendors.
func decodeCommon(given map[string]any) ([]byte, commonFields, error) {
	common := commonFields{RequestTimeout: provider.Seconds(defaultRequestTimeout / time.Second)}
	fields, err := json.Marshal(given)
	if err != nil {
		return nil, common, err
	}
	return fields, common, provider.DecodeFields(fields, &common)
}

// rotationStatus returns what operators see of the rotation of the secret: of the credential's own, or of that of its
// client, which is rotated there.
func (c *storedCredential) rotationStatus(plan rotationPlan) broker.RotationFunc {
	rotation, changed, ofClient := c.Rotation, c.WriteTime, false
	if c.client != nil && c.client.Client != nil {
		own, err := c.client.rotationPlan()
		if err != nil {
			return nil
		}
		plan, rotation, changed, ofClient = own, c.client.Rotation, c.client.SecretsTime, true
	}
	if rotation == nil && plan.IsZero() {
		return nil
	}
	plan.Schedule = plan.Parsed()
	return func(now time.Time) *broker.RotationStatus {
		status := rotation.status(plan, changed, now)
		if ofClient {
			status.DueTime = time.Time{}
		}
		return status
	}
}

// rotationPlan returns when the secret of the credential is replaced. Its error is of kind Invalid.
func (c *storedCredential) rotationPlan() (rotationPlan, error) {
	_, common, err := decodeCommon(c.Fields)
	if err != nil {
		return rotationPlan{}, err
	}
	return common.rotationPlan()
}

// expiry returns when the first of the credential's secrets expires: what the operator stated for the
// credential, else the earlier of what is stated for its client and of the vendor's rule.
func (c *storedCredential) expiry(stated, latest time.Time) time.Time {
	isOfClient := c.Fields["expires"] == nil
	if isOfClient && !latest.IsZero() && latest.Before(stated) {
		return latest
	}
	return cmp.Or(stated, latest)
}

// needsRefreshToken reports whether a credential gets its refresh token from a person's consent.
func needsRefreshToken(vendor provider.Credential) bool {
	consent := provider.ConsentOf(vendor)
	return consent != nil && consent.IsMissing()
}

// apiOf returns how a vendor's API takes a token; nil for the usual way.
func apiOf(c provider.Credential) *provider.API {
	if own, is := c.(provider.Presented); is {
		return own.API()
	}
	return nil
}

// maxDescription is the maximum length of a description, in characters.
const maxDescription = 500

func checkDescription(text string) error {
	if utf8.RuneCountInString(text) > maxDescription {
		return provider.Errorf(provider.Invalid, "description: must have at most %d characters", maxDescription)
	}
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return provider.Errorf(provider.Invalid, "description: must be one line, without control characters")
	}
	return nil
}

// parseExpires parses the field expires. It returns the zero time if the field is not set.
func parseExpires(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, provider.Errorf(provider.Invalid, "expires: must be a date such as 2027-05-01, or an RFC 3339 time such as 2027-05-01T12:00:00Z")
}

// latestExpiry returns when a refresh token that was written at a time has expired by the vendor's rule; the
// zero time if there is none. The refresh token may have been issued before it was written.
func latestExpiry(vendor provider.Credential, written time.Time) time.Time {
	limited, isLimited := vendor.(provider.Limited)
	if !isLimited || limited.MaxAge() == 0 || written.IsZero() {
		return time.Time{}
	}
	return written.Add(limited.MaxAge()).UTC()
}

const (
	defaultKeepalive = 24 * time.Hour

	// sweepInterval is how often Vault calls the background work, and so how late it may be.
	sweepInterval = time.Minute
)

// keepaliveInterval returns how often to exchange a credential that expires after idle without use;
// a zero idle means that it does not expire. The default is a day, or half of idle if that is
// shorter.
func keepaliveInterval(given *provider.Seconds, idle time.Duration) (time.Duration, error) {
	interval := defaultKeepalive
	if idle > 0 {
		interval = min(interval, idle/2)
	}
	if given != nil {
		interval = given.Duration()
	}
	longest := idle - sweepInterval
	switch {
	case idle == 0 || interval == 0 || interval <= longest:
		return interval, nil
	case given == nil:
		return 0, provider.Errorf(provider.Invalid, "idle_expiry: must be at least %s, as keepalive runs once a minute; or disable keepalive with keepalive_interval=0", inUnits(2*sweepInterval))
	}
	return 0, provider.Errorf(provider.Invalid, "keepalive_interval: must be at most %s, as the credential expires after %s without use and keepalive runs once a minute; 0 disables keepalive",
		inUnits(max(longest, 0)), inUnits(idle))
}

// inUnits formats a duration as Vault accepts it: in days if it is a whole number of days, else in
// hours, minutes and seconds without zero units at the end.
func inUnits(d time.Duration) string {
	if day := 24 * time.Hour; d > 0 && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
