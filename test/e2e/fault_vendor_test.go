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
	// answerTime is how long the rotating vendor takes for an answer.
	answerTime = 150 * time.Millisecond

	// hasty is how long the access tokens live of most credentials, so that one or the
	// other is being exchanged most of the time, and lasting is that of the rest. The
	// vendor tells whole seconds, rounded down.
	hasty   = 12*time.Second + 50*time.Millisecond
	lasting = time.Hour + 50*time.Millisecond

	// callLag is how much later than the engine sent it a call may come on a busy machine.
	// An exchange that is not due, such as another node's, comes sooner than the rest of the
	// 9 s until a hasty token is due for replacement.
	callLag = 8 * time.Second

	// machineLag bounds, on a busy machine, how late a call comes, and how late the engine
	// has written what it was answered: a kill that came later than that explains nothing.
	machineLag = 10 * time.Second
)

// A rotator is a vendor who replaces a refresh token whenever it is used. One that is
// used again ends the credential. He keeps a record of what he has answered, and of
// what has become of that.
type rotator struct {
	*vendorsim.Sim
	url string

	// node is the node that is at the other end of a connection; it may be nil.
	node func(net.Conn) int

	mu       sync.Mutex
	troubles *troubles
	answers  map[string][]*answer // by credential, since its refresh token was written
	refresh  map[string]*answer   // by the refresh token in it
	access   map[string]*answer   // by the access token in it
	asked    chan struct{}        // closed when the next exchange begins
	inFlight map[int]int          // by node
	callers  []caller             // one for each time that another node began to call
	losses   []loss
	wrongs   []string
	broken   time.Time // when something was last about to break
}

// An answer is one to an exchange, or what an operator has written.
type answer struct {
	credential      string
	lifetime        time.Duration
	asked, answered time.Time // answered is zero while it is on its way
	served          bool      // a reader has had its access token
	access, refresh string
}

// A loss is a credential that its vendor does not take any more.
type loss struct {
	credential string
	unused     []*answer // that came after the one whose refresh token was used again
	told       bool      // of it has been taken care
}

// A caller is a node that calls from a time on.
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

// issue makes a refresh token, as for a customer who has just consented, and the fields
// of a credential with it.
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
		panic(http.ErrAbortHandler) // the caller was killed as it called
	}
	form, _ := url.ParseQuery(string(body))
	r.Body = io.NopCloser(bytes.NewReader(body))
	node, _ := r.Context().Value(callerKey{}).(int)
	next := v.begin(node, form.Get("refresh_token"))
	recorder := httptest.NewRecorder()
	v.ServeHTTP(recorder, r)
	// Before it is on its way: a reader may have it sooner than this goroutine goes on.
	v.note(next, recorder.Body.Bytes())
	for name, values := range recorder.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(recorder.Code)
	_, _ = w.Write(recorder.Body.Bytes())
	v.end(node)
}

// begin is for an exchange that has begun. It returns what is to be answered; nil if
// the refresh token has been replaced.
func (v *rotator) begin(node int, token string) *answer {
	v.mu.Lock()
	defer v.mu.Unlock()
	close(v.asked)
	v.asked = make(chan struct{})
	v.noteCaller(node)
	last := v.refresh[token]
	if last == nil {
		v.wrong("a refresh token that nobody issued")
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
		// Until the engine has checked the new one, the old is all it has.
		if len(answers) > 1 {
			v.wrong("%s: a refresh token that an operator has replaced", last.credential)
		}
		return nil
	}
	// What a token has left when it is due for the next is a quarter.
	// Whoever is killed between the writes of the new refresh token and of the access token has
	// only the former afterwards.
	due := last.asked.Add(last.lifetime.Truncate(time.Second) * 3 / 4)
	isTorn := v.broken.After(last.asked)
	if !last.asked.IsZero() && !isTorn && time.Now().Before(due.Add(-callLag)) {
		v.wrong("%s was exchanged again after %s", last.credential, time.Since(last.asked))
	}
	next := &answer{credential: last.credential, lifetime: last.lifetime, asked: time.Now()}
	v.answers[last.credential] = append(answers, next)
	return next
}

// breaking notes that something is about to break.
func (v *rotator) breaking() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.broken = time.Now()
}

// noteCaller notes who calls: one node at a time.
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

// lose notes that a credential has ended, unless it had.
func (v *rotator) lose(credential string, unused []*answer) {
	for _, l := range v.losses {
		if l.unused[0] == unused[0] {
			return
		}
	}
	v.troubles.begin(credential)
	v.losses = append(v.losses, loss{credential: credential, unused: unused})
}

// note notes what is answered.
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
		v.wrong("%s: an exchange in order was refused: %s", a.credential, body)
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

// clock is how times are told that explain each other.
const clock = "15:04:05.000"

// isServed is for an access token that a reader has had. It is whether it was one.
func (v *rotator) isServed(token string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	a := v.access[token]
	if a != nil {
		a.served = true
	}
	return a != nil
}

// awaitCall waits until the next exchange begins, or so long.
func (v *rotator) awaitCall(most time.Duration) {
	v.mu.Lock()
	asked := v.asked
	v.mu.Unlock()
	select {
	case <-asked:
	case <-time.After(most):
	}
}

// calls is how many exchanges are in flight.
func (v *rotator) calls() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	calls := 0
	for _, n := range v.inFlight {
		calls += n
	}
	return calls
}

// calledSince are the nodes that have called since a time, one after the other.
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

// caller is the node that called last.
func (v *rotator) caller() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.callers[len(v.callers)-1].node
}

// newLosses are those of which nobody has been told.
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

// isFreshSince is whether a credential has been exchanged since a time, or was found
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
