package vendorsim

import (
	"encoding/hex"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-uuid"
)

const (
	datadogHost = "api.datadoghq.com"

	datadogKeys    = "/api/v2/api_keys"
	datadogAppKeys = "/api/v2/current_user/application_keys"
	datadogTokens  = "/api/v2/personal_access_tokens"
	datadogProbe   = "/api/v2/validate_keys"

	maxDatadogKeys = 50
)

// datadogScopes are those of the first application key.
var datadogScopes = []string{"api_keys_read", "api_keys_write", "api_keys_delete", "user_app_keys", "service_account_write", "metrics_read"}

// datadogServiceTokens is the path of a service account's access tokens.
var datadogServiceTokens = regexp.MustCompile(`^/api/v2/service_accounts/[0-9a-f-]{36}/access_tokens$`)

// An organization of Datadog is an account with an API key and an application key, which are secrets of one account
// that differ by their kind: "api_keys" or "application_keys".

func (s *Sim) addDatadog(a *account) map[string]any {
	s.rotating.hosts[datadogHost] = s.datadog
	key := s.first(a, &heldSecret{id: a.uuid("api key"), name: "first", role: "api_keys", text: s.secret(hex.EncodeToString([]byte(s.opaque("")[:16])))})
	app := s.first(a, &heldSecret{id: a.uuid("application key"), name: "first", role: "application_keys", text: s.secret(s.opaque("ddapp_")[:40]), scope: datadogScopes})
	return map[string]any{
		"site": "datadoghq.com", "api_key": key.text, "api_key_id": key.id, "application_key": app.text, "application_key_id": app.id,
		"scope": []string{"metrics_read"},
	}
}

// datadogPair finds both keys.
func datadogPair(a *account, fields map[string]any) []*heldSecret {
	return append(secretField("api_key")(a, fields), secretField("application_key")(a, fields)...)
}

func datadogRefusal(status int, message string) reply {
	return reply{status: status, body: map[string]any{"errors": []string{message}}}
}

// A datadogRequest is a body in the form of JSON:API.
type datadogRequest struct {
	Data struct {
		Type       string `json:"type"`
		Attributes struct {
			Name      string   `json:"name"`
			Scopes    []string `json:"scopes"`
			ExpiresAt string   `json:"expires_at"`
		} `json:"attributes"`
	} `json:"data"`
}

// A datadogTarget is what a URL of Datadog means: a collection of keys or tokens, of a type, and the ID of one or "".
type datadogTarget struct {
	role, id string
	isToken  bool
}

func datadogTargetOf(path string) (to datadogTarget, isKnown bool) {
	for prefix, role := range map[string]string{datadogKeys: "api_keys", datadogAppKeys: "application_keys"} {
		rest, isKeys := strings.CutPrefix(path, prefix)
		if id := strings.TrimPrefix(rest, "/"); isKeys && !strings.Contains(id, "/") && (rest == "" || id != "" && id != rest) {
			return datadogTarget{role: role, id: id}, true
		}
	}
	switch {
	case path == datadogTokens:
		return datadogTarget{role: "personal_access_tokens", isToken: true}, true
	case datadogServiceTokens.MatchString(path):
		return datadogTarget{role: "service_access_tokens", isToken: true}, true
	}
	return datadogTarget{}, path == datadogProbe
}

// datadog is the API of Datadog (https://docs.datadoghq.com/api/latest/key-management/).
func (s *Sim) datadog(path string, r *http.Request) reply {
	to, isKnown := datadogTargetOf(path)
	if !isKnown {
		return violation(http.StatusNotFound, "unknown URL")
	}
	var given datadogRequest
	method, query, body := http.MethodGet, []string(nil), any(nil)
	switch {
	case to.role == "":
	case to.isToken, to.id == "" && r.Method == http.MethodPost:
		method, body = http.MethodPost, &given
	case to.id == "":
		query = []string{"filter", "page[size]", "page[number]", "sort"}
	case r.Method == http.MethodDelete:
		method = http.MethodDelete
	}
	if wrong := wrongRequest(r, method, []string{"DD-API-KEY", "DD-APPLICATION-KEY"}, query, body); wrong != nil {
		return *wrong
	}
	if r.Header.Get("DD-API-KEY") == "" || r.Header.Get("DD-APPLICATION-KEY") == "" {
		return violation(http.StatusUnauthorized, "must have DD-API-KEY and DD-APPLICATION-KEY")
	}
	a, app := s.datadogCaller(r)
	if a == nil || to.role == "" {
		if a == nil {
			return datadogRefusal(http.StatusForbidden, "Forbidden")
		}
		return ok(map[string]string{"status": "ok"})
	}
	if needs := to.permission(method); !slices.Contains(app.scope, needs) && app.scope != nil {
		return datadogRefusal(http.StatusForbidden, "Forbidden: the application key lacks "+needs)
	}
	switch {
	case body == nil && to.id == "":
		return s.datadogList(a, to.role, r.URL.Query().Get("filter"))
	case body == nil:
		return s.datadogOne(a, to, method)
	case given.Data.Type != to.role || given.Data.Attributes.Name == "":
		return violation(http.StatusBadRequest, "type must be "+to.role+" and name be set")
	case to.isToken:
		return s.datadogToken(a, to, given)
	}
	return s.datadogCreate(a, to.role, given)
}

// permission returns what an application key needs for a request.
func (to datadogTarget) permission(method string) string {
	switch {
	case to.role == "service_access_tokens":
		return "service_account_write"
	case to.role != "api_keys":
		return "user_app_keys"
	}
	return map[string]string{http.MethodGet: "api_keys_read", http.MethodPost: "api_keys_write", http.MethodDelete: "api_keys_delete"}[method]
}

// datadogCaller returns the account whose pair of keys a request has, and the application key; nil if a key is
// refused, or they are of two accounts.
func (s *Sim) datadogCaller(r *http.Request) (*account, *heldSecret) {
	find := func(a *account, role, text string) *heldSecret {
		return a.latest(func(h *heldSecret) bool { return h.role == role && h.text == text && s.accepts(h) })
	}
	var app *heldSecret
	a := s.accountWith(func(a *account) bool {
		app = find(a, "application_keys", r.Header.Get("DD-APPLICATION-KEY"))
		return app != nil && find(a, "api_keys", r.Header.Get("DD-API-KEY")) != nil
	}, "datadog")
	return a, app
}

func (s *Sim) datadogOne(a *account, to datadogTarget, method string) reply {
	h := a.with(to.id)
	switch {
	case h == nil || h.role != to.role:
		return datadogRefusal(http.StatusNotFound, "Not found")
	case method == http.MethodGet:
		return ok(map[string]any{"data": shownDatadog(h)})
	}
	s.remove(h)
	return reply{status: http.StatusNoContent}
}

func (s *Sim) datadogList(a *account, role, filter string) reply {
	list := []any{}
	for _, h := range a.stored() {
		if h.role == role && strings.Contains(h.name, filter) {
			list = append(list, shownDatadog(h))
		}
	}
	return ok(map[string]any{"data": list, "meta": map[string]any{"page": map[string]int{"total_filtered_count": len(list)}}})
}

func shownDatadog(h *heldSecret) map[string]any {
	attributes := map[string]any{"name": h.name, "last4": h.text[len(h.text)-4:], "created_at": rfc3339(h.created)}
	if h.role == "application_keys" {
		attributes["scopes"] = h.scope
	}
	return map[string]any{"id": h.id, "type": h.role, "attributes": attributes}
}

func (s *Sim) datadogCreate(a *account, role string, given datadogRequest) reply {
	same, count := false, 0
	for _, h := range a.stored() {
		if h.role == role {
			count++
			same = same || h.name == given.Data.Attributes.Name
		}
	}
	switch {
	case given.Data.Attributes.ExpiresAt != "" || role == "api_keys" && given.Data.Attributes.Scopes != nil:
		return violation(http.StatusBadRequest, "unknown attribute")
	case role == "api_keys" && same:
		return datadogRefusal(http.StatusBadRequest, "An API key with this name exists already")
	case role == "api_keys" && count >= maxDatadogKeys:
		return datadogRefusal(http.StatusBadRequest, fmt.Sprintf("An organization can have at most %d API keys", maxDatadogKeys))
	}
	id, err := uuid.GenerateUUID()
	if err != nil {
		panic(err)
	}
	text := s.opaque("ddapp_")[:40]
	if role == "api_keys" {
		text = hex.EncodeToString([]byte(s.opaque("")[:16]))
	}
	h := a.hold(&heldSecret{id: id, name: given.Data.Attributes.Name, role: role, text: s.secret(text), scope: given.Data.Attributes.Scopes}, s.now())
	shown := shownDatadog(h)
	shown["attributes"].(map[string]any)["key"] = h.text
	return reply{status: http.StatusCreated, body: map[string]any{"data": shown}}
}

// datadogToken creates an access token (https://docs.datadoghq.com/account_management/personal-access-tokens/).
func (s *Sim) datadogToken(a *account, to datadogTarget, given datadogRequest) reply {
	attributes, prefix := given.Data.Attributes, "ddpat_"
	expiry, isTime := statedTime(attributes.ExpiresAt)
	if to.role == "service_access_tokens" {
		prefix = "ddsat_"
	}
	switch left := expiry.Sub(s.now()); {
	case len(attributes.Scopes) == 0 || !isTime || expiry.IsZero() && prefix == "ddpat_":
		return violation(http.StatusBadRequest, "scopes and expires_at must be set")
	case expiry.IsZero():
		expiry = s.now().AddDate(10, 0, 0)
	case left < 24*time.Hour || left > 365*24*time.Hour:
		return datadogRefusal(http.StatusBadRequest, "expires_at must be 24 hours to 365 days ahead")
	}
	token := s.opaque(prefix)
	s.record(token, expiry)
	s.rotating.tokens[token] = grantedToken{account: a, audience: datadogHost, scope: attributes.Scopes}
	return reply{status: http.StatusCreated, body: map[string]any{"data": map[string]any{
		"id": fmt.Sprint(len(s.issued)), "type": to.role,
		"attributes": map[string]any{
			"name": attributes.Name, "key": token, "public_portion": token[:10], "scopes": attributes.Scopes, "created_at": rfc3339(s.now()), "expires_at": rfc3339(expiry),
		},
	}}}
}
