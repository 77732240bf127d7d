package vendorsim

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"time"
)

// Faults of a vendor who does the work that it is asked for: a token is issued, and a
// refresh token replaced where the vendor replaces them, whatever the caller gets to
// know of it.

// worked is what the vendor answers when it has done its work.
func (s *Sim) worked(r *http.Request) *httptest.ResponseRecorder {
	host, path := locate(r)
	answer := httptest.NewRecorder()
	s.work(host, path, r).write(answer)
	return answer
}

// Lose is a fault: the work is done, and the connection breaks before the answer.
func (s *Sim) Lose(_ http.ResponseWriter, r *http.Request) {
	s.worked(r)
	panic(http.ErrAbortHandler)
}

// CutOff is a fault: the work is done, and the answer breaks off half-way.
func (s *Sim) CutOff(w http.ResponseWriter, r *http.Request) {
	answer := s.worked(r)
	breakOff(w, answer.Code, answer.Body.Bytes()[:answer.Body.Len()/2])
}

// Truncate is a fault: the work is done, and half of the answer passes for all of it.
func (s *Sim) Truncate(w http.ResponseWriter, r *http.Request) {
	answer := s.worked(r)
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes()[:answer.Body.Len()/2])
}

// Late is a fault: the work is done when the given time has passed, whether or not the
// caller has given up.
func (s *Sim) Late(after time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(after)
		answer := s.worked(r)
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes())
	}
}

// Amend is a fault: the work is done, and something of the answer is not as documented.
// A refusal is left as it is.
func (s *Sim) Amend(amend func(answer map[string]any)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		done := s.worked(r)
		var answer map[string]any
		if err := json.Unmarshal(done.Body.Bytes(), &answer); err != nil {
			panic(err)
		}
		if done.Code == http.StatusOK {
			amend(answer)
		}
		reply{status: done.Code, body: answer}.write(w)
	}
}
