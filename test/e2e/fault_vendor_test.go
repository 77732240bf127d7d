//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

const (
	// answerTime is the time that the rotating vendor takes for an answer.
	answerTime = 150 * time.Millisecond

	// shortLifetime is the lifetime of most credentials' access tokens, so that an exchange is in
	// flight most of the time. longLifetime is the lifetime of the others. The vendor states whole
	// seconds, rounded down.
	shortLifetime = 12*time.Second + 50*time.Millisecond
	longLifetime  = time.Hour + 50*time.Millisecond

	// callLag is the longest time that a call takes to arrive on a busy machine. A token is due for
	// renewal after 9 s. An exchange that arrives more than callLag before that is needless, such
	// as one by another node.
	callLag = 8 * time.Second

	// machineLag bounds the delays of a call, and of the write of its answer, on a busy machine. A
	// fault outside these bounds explains no loss.
	machineLag = 10 * time.Second
)

// rotator is a vendor that rotates refresh tokens, and that ends a credential when a spent one is
// used again. It records its answers and whether they were used.
type rotator struct {
	*vendorsim.Sim
	url string

	// node returns the node at the other end of a connection; it may be nil.
	node func(net.Conn) int

	mu       sync.Mutex
	troubles *troubles
	answers  map[string][]*answer // by credential, since its refresh token was written
	refresh  map[string]*answer   // by the refresh token in it
	access   map[string]*answer   // by the access token in it
	asked    chan struct{}        // closed when the next exchange begins
	inFlight map[int]int          // by node
	callers  []caller             // one for each change of the calling node
	losses   []loss
	wrongs   []string
	broken   time.Time // the start of the last fault
}

// answer is the answer to an exchange, or a refresh token that an operator wrote.
type answer struct {
	credential      string
	lifetime        time.Duration
	asked, answered time.Time // answered is zero while the exchange is in flight
	served          bool      // a reader got its access token
	access, refresh string
}

// loss is a credential that the vendor has ended.
type loss struct {
	credential string
	unused     []*answer // the answers after the one whose refresh token was used again
	told       bool      // newLosses has returned it
}

// caller is a node that calls from a time on.
type caller struct {
	node int
	from time.Time
}

func newRotator(t *testing.T, x *troubles, node func(net.Conn) int) *rotator {
	v := &rotator{
		Sim: vendorsim.New(), node: node, troubles: x,
		answers: map[string][]*answer{}, refresh: map[string]*answer{}, access: map[string]*answer{},
		asked: make(chan struct{}), inFlight: map[int]int{},
	}
	v.Behave(vendorsim.Conduct{Latency: answerTime})
	server := httptest.NewUnstartedServer(http.HandlerFunc(v.serve))
	server.Config.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		if v.node == nil {
			return ctx
		}
		return context.WithValue(ctx, callerKey{}, v.node(conn))
	}
	server.Start()
	t.Cleanup(server.Close)
	v.url = vendorsim.URL(server.URL, vendorsim.OAuthTokenURL)
	t.Cleanup(func() { require.Empty(t, v.Violations(), "requests that no vendor documents") })
	return v
}

type callerKey struct{}

// issue issues a refresh token, as after a customer's consent, and returns the fields of a
// credential with it.
func (v *rotator) issue(credential string, lifetime time.Duration) map[string]any {
	client := vendorsim.OAuthClient{
		ID: credential, AuthMethods: []string{vendorsim.None}, Grants: []string{vendorsim.RefreshTokenGrant},
		Scopes: []string{"read"}, Lifetime: lifetime, Rotate: true,
	}
	token := "written-" + rand.Text()
	v.AddOAuthClient(client)
	v.AddOAuthRefreshToken(client, token, "read")
	v.mu.Lock()
	defer v.mu.Unlock()
	written := &answer{credential: credential, lifetime: lifetime, refresh: token}
	v.answers[credential], v.refresh[token] = []*answer{written}, written
	return map[string]any{"token_url": v.url, "client_id": credential, "refresh_token": token}
}

func (v *rotator) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // the caller was killed during the call
	}
	form, _ := url.ParseQuery(string(body))
	r.Body = io.NopCloser(bytes.NewReader(body))
	node, _ := r.Context().Value(callerKey{}).(int)
	next := v.begin(node, form.Get("refresh_token"))
	recorder := httptest.NewRecorder()
	v.ServeHTTP(recorder, r)
	// Note the answer before it is sent, because a reader may have its token before this goroutine
	// continues.
	v.note(next, recorder.Body.Bytes())
	for name, values := range recorder.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(recorder.Code)
	_, _ = w.Write(recorder.Body.Bytes())
	v.end(node)
}

// begin notes the start of an exchange. It returns the answer to be filled in, or nil if the
// refresh token is spent.
func (v *rotator) begin(node int, token string) *answer {
	v.mu.Lock()
	defer v.mu.Unlock()
	close(v.asked)
	v.asked = make(chan struct{})
	v.noteCaller(node)
	last := v.refresh[token]
	if last == nil {
		v.wrong("a refresh token that was not issued")
		return nil
	}
	answers := v.answers[last.credential]
	for i, a := range answers {
		if a == last && i < len(answers)-1 {
			v.lose(last.credential, answers[i+1:])
			return nil
		}
	}
	if answers[len(answers)-1] != last {
		// The engine may use the old one until it has verified the new one.
		if len(answers) > 1 {
			v.wrong("%s: a refresh token that an operator has replaced", last.credential)
		}
		return nil
	}
	// A token is due for renewal with a quarter of its lifetime left. A fault between the writes
	// of a new refresh token and its access token makes another exchange necessary.
	due := last.asked.Add(last.lifetime.Truncate(time.Second) * 3 / 4)
	isTorn := v.broken.After(last.asked)
	if !last.asked.IsZero() && !isTorn && time.Now().Before(due.Add(-callLag)) {
		v.wrong("%s was exchanged again after %s", last.credential, time.Since(last.asked))
	}
	next := &answer{credential: last.credential, lifetime: last.lifetime, asked: time.Now()}
	v.answers[last.credential] = append(answers, next)
	return next
}

// breaking notes the start of a fault.
func (v *rotator) breaking() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.broken = time.Now()
}

// noteCaller notes the calling node. Only one node may call at a time.
func (v *rotator) noteCaller(node int) {
	v.inFlight[node]++
	if node == unknownNode {
		return
	}
	for other, calls := range v.inFlight {
		if other != node && other != unknownNode && calls > 0 {
			v.wrong("nodes %d and %d call at once", other, node)
		}
	}
	if len(v.callers) == 0 || v.callers[len(v.callers)-1].node != node {
		v.callers = append(v.callers, caller{node, time.Now()})
	}
}

// lose notes that a credential has ended, once.
func (v *rotator) lose(credential string, unused []*answer) {
	for _, l := range v.losses {
		if l.unused[0] == unused[0] {
			return
		}
	}
	v.troubles.begin(credential)
	v.losses = append(v.losses, loss{credential: credential, unused: unused})
}

// note notes the body of an answer.
func (v *rotator) note(a *answer, body []byte) {
	if a == nil {
		return
	}
	var tokens struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
	}
	err := json.Unmarshal(body, &tokens)
	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil || tokens.Access == "" {
		v.wrong("%s: a valid exchange was rejected: %s", a.credential, body)
		return
	}
	a.access, a.refresh, a.answered = tokens.Access, tokens.Refresh, time.Now()
	v.access[a.access], v.refresh[a.refresh] = a, a
}

func (v *rotator) end(node int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.inFlight[node]--
}

func (v *rotator) wrong(format string, args ...any) {
	v.wrongs = append(v.wrongs, time.Now().Format(clock)+" "+fmt.Sprintf(format, args...))
}

// clock is the format of times in messages.
const clock = "15:04:05.000"

// isServed notes that a reader got an access token, and reports whether the vendor issued it.
func (v *rotator) isServed(token string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	a := v.access[token]
	if a != nil {
		a.served = true
	}
	return a != nil
}

// awaitCall waits until the next exchange begins, or for the given time.
func (v *rotator) awaitCall(most time.Duration) {
	v.mu.Lock()
	asked := v.asked
	v.mu.Unlock()
	select {
	case <-asked:
	case <-time.After(most):
	}
}

// calls returns the number of exchanges in flight.
func (v *rotator) calls() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	calls := 0
	for _, n := range v.inFlight {
		calls += n
	}
	return calls
}

// calledSince returns the nodes that began to call after a time, in order.
func (v *rotator) calledSince(from time.Time) []int {
	v.mu.Lock()
	defer v.mu.Unlock()
	var nodes []int
	for _, c := range v.callers {
		if c.from.After(from) {
			nodes = append(nodes, c.node)
		}
	}
	return nodes
}

// caller returns the node that called last.
func (v *rotator) caller() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.callers[len(v.callers)-1].node
}

// newLosses returns the lost credentials since its last call.
func (v *rotator) newLosses() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var names []string
	for i := range v.losses {
		if l := &v.losses[i]; !l.told {
			l.told = true
			names = append(names, l.credential)
		}
	}
	return names
}

// isFreshSince reports whether a credential has been exchanged and read since a time, or was newly
// lost.
func (v *rotator) isFreshSince(credential string, from time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, l := range v.losses {
		if l.credential == credential && !l.told {
			return true
		}
	}
	answers := v.answers[credential]
	last := answers[len(answers)-1]
	return last.asked.After(from) && last.served
}
