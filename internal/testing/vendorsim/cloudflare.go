package vendorsim

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	cloudflareHost    = "api.cloudflare.com"
	cloudflareAccount = "0123456789abcdef0123456789abcdef"

	// cloudflareEdit is the permission group that may manage tokens, of the user or of the account.
	cloudflareEdit = "686d18d5ac6c441c867cbf6771e58a0a"
	cloudflareRead = "c8fed203ed3043cba015a93ad1616f1f"

	maxCloudflareUserTokens, maxCloudflareAccountTokens = 50, 500
)

var cloudflareID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// A cloudflarePolicy is what a token may do. The answers have members that a request need not have.
type cloudflarePolicy struct {
	ID               string            `json:"id,omitempty"`
	Effect           string            `json:"effect"`
	Resources        map[string]string `json:"resources"`
	PermissionGroups []cloudflareGroup `json:"permission_groups"`
}

type cloudflareGroup struct {
	ID   string            `json:"id"`
	Name string            `json:"name,omitempty"`
	Meta map[string]string `json:"meta,omitempty"`
}

// A cloudflareCondition is from where a token may be used.
type cloudflareCondition struct {
	RequestIP cloudflareIPs `json:"request_ip"`
}

type cloudflareIPs struct {
	In    []string `json:"in,omitempty"`
	NotIn []string `json:"not_in,omitempty"`
}

// addCloudflare adds a token that manages tokens, and one for readers, whose value is rolled. Only the former is a
// secret of the account.
func (s *Sim) addCloudflare(a *account) map[string]any {
	s.rotating.hosts[cloudflareHost] = s.cloudflare
	resource, fields := "com.cloudflare.api.user."+a.hex("user"), map[string]any{}
	if a.kind == "cloudflare/account" {
		resource, fields["account_id"] = "com.cloudflare.api.account."+cloudflareAccount, cloudflareAccount
	}
	policy := func(group, name string) []cloudflarePolicy {
		return []cloudflarePolicy{{
			ID: a.hex("policy " + group), Effect: "allow", Resources: map[string]string{resource: "*"},
			PermissionGroups: []cloudflareGroup{{ID: group, Name: name, Meta: map[string]string{"label": name}}},
		}}
	}
	h := s.first(a, &heldSecret{id: a.hex("manager"), name: "manager", text: s.secret(s.opaque(cloudflarePrefix(a))), policies: policy(cloudflareEdit, "API Tokens Write")})
	h.condition = &cloudflareCondition{RequestIP: cloudflareIPs{In: []string{"192.0.2.0/24"}}}
	reader := &heldSecret{id: a.hex("reader"), name: "reader", text: s.secret(s.opaque(cloudflarePrefix(a))), policies: policy(cloudflareRead, "Zone Read"), isReaders: true}
	s.first(a, reader)
	fields["api_token"], fields["api_token_id"], fields["token_id"] = h.text, h.id, reader.id
	return fields
}

func cloudflarePrefix(a *account) string {
	if a.kind == "cloudflare/account" {
		return "cfat_"
	}
	return "cfut_"
}

func cloudflareRefusal(status, code int, message string) reply {
	return reply{status: status, body: map[string]any{
		"success": false, "errors": []any{map[string]any{"code": code, "message": message}}, "messages": []any{}, "result": nil,
	}}
}

func cloudflareOK(result any) reply {
	return ok(map[string]any{"success": true, "errors": []any{}, "messages": []any{}, "result": result})
}

type cloudflareToken struct {
	Name      string               `json:"name"`
	Policies  []cloudflarePolicy   `json:"policies"`
	Condition *cloudflareCondition `json:"condition"`
	ExpiresOn string               `json:"expires_on"`
	NotBefore string               `json:"not_before"`
}

// cloudflare is /client/v4/user/tokens and /client/v4/accounts/{account_id}/tokens
// (https://developers.cloudflare.com/fundamentals/api/how-to/create-via-api/).
func (s *Sim) cloudflare(path string, r *http.Request) reply {
	kind := "cloudflare/user"
	rest, isKnown := strings.CutPrefix(path, "/client/v4/user/tokens")
	if !isKnown {
		kind = "cloudflare/account"
		rest, isKnown = strings.CutPrefix(path, "/client/v4/accounts/"+cloudflareAccount+"/tokens")
	}
	id, action, _ := strings.Cut(strings.TrimPrefix(rest, "/"), "/")
	var given cloudflareToken
	var none struct{}
	method, query, body := r.Method, []string(nil), any(nil)
	switch {
	case !isKnown || action != "" && action != "value" || id != "" && id != "verify" && !cloudflareID.MatchString(id):
		return violation(http.StatusNotFound, "unknown URL")
	case action == "value":
		method, body = http.MethodPut, &none
	case id == "" && method == http.MethodPost:
		body = &given
	case id == "":
		method, query = http.MethodGet, []string{"page", "per_page", "direction"}
	case id == "verify" || method != http.MethodDelete:
		method = http.MethodGet
	}
	if wrong := wrongRequest(r, method, []string{"Authorization"}, query, body); wrong != nil {
		return *wrong
	}
	token := bearer(r)
	if token == "" {
		return violation(http.StatusUnauthorized, "Authorization must be a Bearer")
	}
	var used *heldSecret
	a := s.accountWith(func(a *account) bool {
		used = a.latest(func(h *heldSecret) bool { return h.text == token && s.accepts(h) })
		return used != nil
	}, kind)
	switch {
	case a == nil:
		return cloudflareRefusal(http.StatusUnauthorized, 1000, "Invalid API Token")
	case id == "verify":
		return cloudflareOK(map[string]any{"id": used.id, "status": "active", "expires_on": optional(used.expiry), "not_before": optional(used.notBefore)})
	case !mayManage(used.policies):
		return cloudflareRefusal(http.StatusForbidden, 9109, "Unauthorized to access requested resource")
	case body == &given:
		return s.cloudflareCreate(a, used, given)
	case id == "":
		return s.cloudflareList(a, r.URL.Query())
	}
	h := a.with(id)
	switch {
	case h == nil:
		return cloudflareRefusal(http.StatusNotFound, 1003, "Token not found")
	case action == "value":
		return cloudflareOK(s.cloudflareRoll(a, h))
	case method == http.MethodDelete:
		s.remove(h)
		return cloudflareOK(map[string]any{"id": h.id})
	}
	return cloudflareOK(s.shownCloudflare(h))
}

// mayManage reports whether a token with policies may manage tokens.
func mayManage(policies []cloudflarePolicy) bool {
	return slices.ContainsFunc(policies, func(p cloudflarePolicy) bool {
		return p.Effect == "allow" && slices.ContainsFunc(p.PermissionGroups, func(g cloudflareGroup) bool { return g.ID == cloudflareEdit })
	})
}

// cloudflareRoll gives a token another value. The former one is refused from now on.
func (s *Sim) cloudflareRoll(a *account, h *heldSecret) string {
	if _, isIssued := s.issued[h.text]; isIssued {
		s.issued[h.text] = time.Time{}
	}
	h.text = s.opaque(cloudflarePrefix(a))
	expiry := h.expiry
	if expiry.IsZero() {
		expiry = s.now().AddDate(10, 0, 0)
	}
	s.record(h.text, expiry)
	return h.text
}

// cloudflareCreate creates a token. It finds wrong what Cloudflare allows: that one that manages tokens may be used from
// elsewhere than the one with which it is created.
func (s *Sim) cloudflareCreate(a *account, used *heldSecret, given cloudflareToken) reply {
	limit := maxCloudflareUserTokens
	if a.kind == "cloudflare/account" {
		limit = maxCloudflareAccountTokens
	}
	expiry, isExpiry := statedTime(given.ExpiresOn)
	from, isFrom := statedTime(given.NotBefore)
	isWrong := func(p cloudflarePolicy) bool {
		return p.Effect != "allow" && p.Effect != "deny" || len(p.Resources) == 0 || len(p.PermissionGroups) == 0
	}
	switch {
	case given.Name == "" || len(given.Policies) == 0 || slices.ContainsFunc(given.Policies, isWrong) || !isExpiry || !isFrom:
		return violation(http.StatusBadRequest, "name and policies must be set, and times be RFC 3339 in UTC")
	case mayManage(given.Policies) && !reflect.DeepEqual(given.Condition, used.condition):
		return violation(http.StatusBadRequest, "the condition must be that of the token that creates this one")
	case !expiry.IsZero() && !s.now().Before(expiry):
		return cloudflareRefusal(http.StatusBadRequest, 400, "expires_on must be in the future")
	case len(a.stored()) >= limit:
		return cloudflareRefusal(http.StatusBadRequest, 1001, fmt.Sprintf("Maximum of %d tokens reached", limit))
	}
	sum := a.sum(fmt.Sprint("token ", len(a.secrets)))
	for i := range given.Policies {
		given.Policies[i].ID = hex.EncodeToString(sum[16:])
	}
	h := a.hold(&heldSecret{
		id: hex.EncodeToString(sum[:16]), name: given.Name, text: s.secret(s.opaque(cloudflarePrefix(a))), policies: given.Policies, condition: given.Condition, notBefore: from, expiry: expiry,
	}, s.now())
	shown := s.shownCloudflare(h)
	shown["value"] = h.text
	return cloudflareOK(shown)
}

// cloudflareList lists a page of tokens, the oldest first, unless the direction is the other one.
func (s *Sim) cloudflareList(a *account, query url.Values) reply {
	size, sizeErr := strconv.Atoi(cmp.Or(query.Get("per_page"), "20"))
	page, pageErr := strconv.Atoi(cmp.Or(query.Get("page"), "1"))
	direction := cmp.Or(query.Get("direction"), "asc")
	if sizeErr != nil || pageErr != nil || size < 5 || size > 50 || page < 1 || direction != "asc" && direction != "desc" {
		return violation(http.StatusBadRequest, "per_page must be 5 to 50, page at least 1, and direction asc or desc")
	}
	all := a.stored()
	if direction == "desc" {
		slices.Reverse(all)
	}
	list := []any{}
	for _, h := range all[min(len(all), (page-1)*size):min(len(all), page*size)] {
		list = append(list, s.shownCloudflare(h))
	}
	shown := cloudflareOK(list)
	shown.body.(map[string]any)["result_info"] = map[string]int{"page": page, "per_page": size, "count": len(list), "total_count": len(all)}
	return shown
}

func (s *Sim) shownCloudflare(h *heldSecret) map[string]any {
	status := "active"
	if !h.isValid(s.now()) {
		status = "expired"
	}
	shown := map[string]any{
		"id": h.id, "name": h.name, "status": status, "policies": h.policies, "expires_on": optional(h.expiry), "not_before": optional(h.notBefore),
		"issued_on": rfc3339(h.created), "modified_on": rfc3339(h.created),
	}
	if h.condition != nil {
		shown["condition"] = h.condition
	}
	return shown
}

// RestrictCloudflare sets from which addresses the token of an account may be used; from all if there are none.
func (s *Sim) RestrictCloudflare(kind, name string, in, notIn []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.account(kind, name).latest(func(h *heldSecret) bool { return !h.isReaders })
	h.condition = nil
	if len(in)+len(notIn) > 0 {
		h.condition = &cloudflareCondition{RequestIP: cloudflareIPs{In: in, NotIn: notIn}}
	}
}

// optional returns a time as APIs state it; nil for the zero time.
func optional(at time.Time) any {
	if at.IsZero() {
		return nil
	}
	return rfc3339(at)
}
