package vendorsim

import (
	"crypto/rand"
	"net/http"
	"strings"
	"time"
)

// DeviceCodeGrant is the value of grant_type for a device code (RFC 8628 §3.4).
const DeviceCodeGrant = "urn:ietf:params:oauth:grant-type:device_code"

// OAuthDeviceURL is the device authorization endpoint of the default server.
const OAuthDeviceURL = OAuthIssuer + "/oauth2/device_authorization"

// deviceLifetime is how long a device code is valid, and devicePoll the least time between two polls.
const (
	deviceLifetime = 15 * time.Minute
	devicePoll     = 5 * time.Second
)

// A deviceCode is a consent on another device.
type deviceCode struct {
	issuer, client, userCode string
	scope                    []string
	expiry, polled           time.Time
	interval                 time.Duration

	isDecided bool
	person    string // "" if the person has refused
}

// Approve plays the person who enters a user code and consents.
func (s *Sim) Approve(userCode, person string) { s.decide(userCode, person) }

// Deny plays the person who enters a user code and refuses.
func (s *Sim) Deny(userCode string) { s.decide(userCode, "") }

// EarlyPolls returns how often a client has asked earlier than the interval allows.
func (s *Sim) EarlyPolls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.oauth.earlyPolls
}

func (s *Sim) decide(userCode, person string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.oauth.devices {
		if d.userCode == userCode {
			d.isDecided, d.person = true, person
			return
		}
	}
	s.violations = append(s.violations, "device: unknown user code")
}

// oauthDevice is the device authorization endpoint.
func (s *Sim) oauthDevice(a *authServer, r *http.Request) *oauthAnswer {
	form, refused := oauthForm(r)
	if refused != nil {
		return refused
	}
	client, found, refused := s.oauthClient(a, r, form)
	switch {
	case refused != nil:
		return refused
	case !found:
		return oauthViolation(invalidClient, "client authentication is missing")
	case form["client_id"] != client.ID:
		return oauthViolation(invalidRequest, "client_id is missing")
	}
	scope := strings.Fields(form["scope"])
	if refused := checkScope(scope, client.Scopes); refused != nil {
		return refused
	}
	code := s.secret("device-" + rand.Text())
	now := s.now()
	d := &deviceCode{
		issuer: asSeen(r, a.Issuer), client: client.ID, userCode: rand.Text()[:8], scope: scope,
		expiry: now.Add(deviceLifetime), polled: now, interval: devicePoll,
	}
	s.oauth.devices[code] = d
	return &oauthAnswer{body: map[string]any{
		"device_code": code, "user_code": d.userCode, "expires_in": int(deviceLifetime.Seconds()), "interval": int(devicePoll.Seconds()),
		"verification_uri": a.Issuer + "/device", "verification_uri_complete": a.Issuer + "/device?user_code=" + d.userCode,
	}}
}

// deviceGrant exchanges a device code.
func (s *Sim) deviceGrant(a *authServer, client OAuthClient, form map[string]string) *oauthAnswer {
	d := s.oauth.devices[form["device_code"]]
	switch {
	case d == nil || d.client != client.ID:
		return oauthRefusal(invalidGrant, "unknown device code")
	case !s.now().Before(d.expiry):
		return oauthRefusal("expired_token", "the device code has expired")
	case s.now().Sub(d.polled) < d.interval:
		d.interval += devicePoll
		d.polled = s.now()
		s.oauth.earlyPolls++
		return oauthRefusal("slow_down", "polled too early")
	}
	d.polled = s.now()
	switch {
	case s.conduct.OAuth.SlowDown && d.interval == devicePoll:
		d.interval += devicePoll
		return oauthRefusal("slow_down", "the server is busy")
	case !d.isDecided:
		return oauthRefusal("authorization_pending", "the person has not decided")
	case d.person == "":
		return oauthRefusal("access_denied", "the person has refused")
	}
	delete(s.oauth.devices, form["device_code"])
	return s.consentGrant(a, client, &code{issuer: d.issuer, person: d.person, scope: d.scope})
}
