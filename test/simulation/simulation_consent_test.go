package simulation_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
)

// consent plays a person who is sent a link or a code, and consents, refuses or leaves it. It reports whether the
// credential is connected.
func (y *year) consent(p *person, rng *rand.Rand) bool {
	if y.settle() {
		return false
	}
	before, began := len(p.sim.Consents()), time.Now()
	if p.flow == "device" && rng.IntN(4) > 0 {
		y.consentOnDevice(p, rng)
	} else {
		y.consentInBrowser(p, rng, p.flow == "pasted")
	}
	consents := p.sim.Consents()
	switch len(consents) - before {
	case 0:
		return false
	case 1:
		p.hasConsented(len(consents), consents[before])
		return y.connects(p, began, len(consents))
	default:
		y.T.Errorf("%s: %s: one consent was exchanged %d times", began, p.name, len(consents)-before)
		return false
	}
}

// connects checks that a consent that the vendor has exchanged is not lost, and that it counts at once.
func (y *year) connects(p *person, began time.Time, number int) bool {
	if y.settle() {
		return false
	}
	var resp *logical.Response
	status, message := y.send(logical.ReadOperation, "authorize/"+p.name, nil, &resp)
	if !assert.Equal(y.T, http.StatusOK, status, message) {
		return false
	}
	if state := resp.Data["state"]; state != "connected" {
		y.T.Errorf("%s: %s (%s): the consent of %s is lost: %v", time.Now(), p.name, p.flow, began, resp.Data)
		return false
	}
	if email := resp.Data["claims"].(map[string]any)["email"]; email != p.name {
		y.T.Errorf("%s: %s: the consent is said to be of %v", time.Now(), p.name, email)
	}
	p.connected.Store(int64(number))
	y.count("connected")
	y.readToken(p)
	return true
}

// begin begins a consent. It returns nil if that fails in an outage.
func (y *year) begin(p *person, data map[string]any) map[string]any {
	data["claims"] = "email"
	asked := time.Now()
	var resp *logical.Response
	status, message := y.send(logical.UpdateOperation, "authorize/"+p.name, data, &resp)
	if status == http.StatusOK {
		return resp.Data
	}
	y.count("not begun")
	if !p.hasOutage(asked) {
		y.T.Errorf("%s: %s: no consent can begin: %d %s", asked, p.name, status, message)
	}
	return nil
}

// hasOutage reports whether the vendor or storage fails since a time, or is just recovering. The lack of a
// consent is not an outage.
func (p *person) hasOutage(since time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range p.outages {
		if !o.until.Equal(unending) && !o.isOfConsent && !time.Now().Before(o.from) && !since.After(o.until) {
			return true
		}
	}
	return false
}

// consentInBrowser plays a person with a link.
func (y *year) consentInBrowser(p *person, rng *rand.Rand, isPasted bool) {
	writes := p.writes.Load()
	began := time.Now()
	begun := y.begin(p, map[string]any{})
	if begun == nil {
		return
	}
	link := begun["authorization_url"].(string)
	if rng.IntN(8) == 0 { // another link, which makes the first one invalid
		old := p.sim.Consent(link, p.name)
		if begun = y.begin(p, map[string]any{}); begun == nil {
			return
		}
		status, page := y.open(p, old, isPasted)
		y.count("old link")
		if status != http.StatusBadRequest {
			y.T.Errorf("%s: %s: a return to an old link is answered with %d %s", time.Now(), p.name, status, page)
		}
		link = begun["authorization_url"].(string)
	}
	think, expected := secondsOf(rng, 5, 9*60), http.StatusOK
	switch rng.IntN(10) {
	case 0:
		y.count("left")
		return
	case 1:
		expected = http.StatusForbidden
	case 2:
		think, expected = secondsOf(rng, 11*60, 30*60), http.StatusGone
	}
	if rng.IntN(3) == 0 {
		y.failOver()
	}
	if y.ended(think) {
		return
	}
	back := p.sim.Consent(link, p.name)
	if expected == http.StatusForbidden {
		back = p.sim.Refuse(link, "the person refused")
	}
	if rng.IntN(3) == 0 {
		y.failOver()
	}
	if y.ended(secondsOf(rng, 0, 30)) {
		return
	}
	if rng.IntN(6) == 0 {
		y.fill()
	}
	status, page := y.returnTo(p, back, isPasted, rng.IntN(4) == 0)
	for status == http.StatusServiceUnavailable || isPasted && status == http.StatusInternalServerError { // as the page says
		y.count("try again")
		if y.ended(time.Minute) {
			return
		}
		if status, page = y.open(p, back, isPasted); status == http.StatusConflict {
			status = expected // the engine has stored it meanwhile
		}
	}
	y.count(map[int]string{
		http.StatusOK: "returned", http.StatusForbidden: "refused", http.StatusGone: "too late", http.StatusConflict: "of a changed credential", http.StatusBadGateway: "failed at the vendor",
	}[status])
	switch {
	case status == expected:
	case status == http.StatusConflict && p.writes.Load() != writes: // the credential was changed
	case (status == http.StatusBadGateway || status == http.StatusGone) && p.hasOutage(began): // the code expired meanwhile
	default:
		y.T.Errorf("%s: %s: the return is answered with %d, expected %d: %s", time.Now(), p.name, status, expected, page)
	}
}

// returnTo opens the URL to which the vendor sends the browser; twice if the person clicks twice. It returns the
// answer that is not that the link was used already.
func (y *year) returnTo(p *person, back string, isPasted, isTwice bool) (status int, page string) {
	if !isTwice {
		return y.open(p, back, isPasted)
	}
	y.count("double click")
	var other int
	var clicks sync.WaitGroup
	clicks.Go(func() { other, _ = y.open(p, back, isPasted) })
	status, page = y.open(p, back, isPasted)
	clicks.Wait()
	if status == http.StatusConflict {
		status = other
	}
	return status, page
}

// open opens a URL of callback in a browser, or gives it to authorize.
func (y *year) open(p *person, to string, isPasted bool) (status int, page string) {
	var resp *logical.Response
	if isPasted {
		y.count("pasted")
		status, message := y.send(logical.UpdateOperation, "authorize/"+p.name, map[string]any{"redirect": to}, &resp)
		return status, message
	}
	u, err := url.Parse(to)
	if err != nil {
		panic(err)
	}
	data := map[string]any{}
	for name, values := range u.Query() {
		data[name] = values[0]
	}
	status, message := y.send(logical.ReadOperation, "callback", data, &resp)
	return statusOf(resp, status), pageOf(resp, message)
}

// consentOnDevice plays a person with a code.
func (y *year) consentOnDevice(p *person, rng *rand.Rand) {
	writes := p.writes.Load()
	began := time.Now()
	begun := y.begin(p, map[string]any{"flow": "device"})
	if begun == nil {
		return
	}
	y.count("on another device")
	code := begun["user_code"].(string)
	think, expected := secondsOf(rng, 5, 13*60), "connected"
	switch rng.IntN(10) {
	case 0:
		think, expected = 20*time.Minute, "expired"
	case 1:
		expected = "refused"
	}
	if rng.IntN(2) == 0 {
		y.failOver()
	}
	if y.ended(think) {
		return
	}
	switch expected {
	case "refused":
		p.sim.Deny(code)
	case "connected":
		p.sim.Approve(code, p.name)
	}
	switch rng.IntN(4) {
	case 0:
		y.fill()
	case 1, 2:
		y.failOver()
	}
	// After a failover, the first sweep goes on with the polls.
	if y.ended(2*time.Minute) || y.settle() {
		return
	}
	var resp *logical.Response
	status, message := y.send(logical.ReadOperation, "authorize/"+p.name, nil, &resp)
	if !assert.Equal(y.T, http.StatusOK, status, message) {
		return
	}
	state, _ := resp.Data["state"].(string)
	y.count(fmt.Sprint(state, " on another device"))
	switch {
	case state == expected:
	case p.writes.Load() != writes: // the credential was changed
	case p.hasOutage(began): // the code expired meanwhile, or is pending
		if state == "pending" {
			y.ended(16 * time.Minute)
		}
	default:
		y.T.Errorf("%s: %s: the consent on another device is %s, expected %s: %v", time.Now(), p.name, state, expected, resp.Data)
	}
}
