package vendorsim

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"time"
)

// The faults of this file happen after the vendor has handled the request: it has issued a
// token, and rotated the refresh token if it does so, whether or not the caller receives them.

// worked handles a request and returns the response.
func (s *Sim) worked(r *http.Request) *httptest.ResponseRecorder {
	host, path := locate(r)
	answer := httptest.NewRecorder()
	s.work(host, path, r).write(answer)
	return answer
}

// Lose is a fault: the vendor handles the request, and the connection breaks before the
// response.
func (s *Sim) Lose(_ http.ResponseWriter, r *http.Request) {
	s.worked(r)
	panic(http.ErrAbortHandler)
}

// Unavailable is a fault: the vendor handles the request, and a gateway answers that it is unavailable.
func (s *Sim) Unavailable(w http.ResponseWriter, r *http.Request) {
	s.worked(r)
	w.WriteHeader(http.StatusServiceUnavailable)
}

// CutOff is a fault: the vendor handles the request, and the connection breaks in the middle of
// the response.
func (s *Sim) CutOff(w http.ResponseWriter, r *http.Request) {
	answer := s.worked(r)
	breakOff(w, answer.Code, answer.Body.Bytes()[:answer.Body.Len()/2])
}

// Truncate is a fault: the vendor handles the request, and returns only half of the response,
// without an error.
func (s *Sim) Truncate(w http.ResponseWriter, r *http.Request) {
	answer := s.worked(r)
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes()[:answer.Body.Len()/2])
}

// Late is a fault: the vendor handles the request after the given time, even if the caller has
// given up.
func (s *Sim) Late(after time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(after)
		answer := s.worked(r)
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes())
	}
}

// Amend is a fault: the vendor handles the request, and amend changes the response so that it is
// not as documented. Error responses stay unchanged.
func (s *Sim) Amend(amend func(answer map[string]any)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		done := s.worked(r)
		var answer map[string]any
		if err := json.Unmarshal(done.Body.Bytes(), &answer); err != nil {
			panic(err)
		}
		if done.Code < 300 {
			amend(answer)
		}
		reply{status: done.Code, body: answer}.write(w)
	}
}
