package vendorsim

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
)

// Transport returns an http.RoundTripper that calls the vendors in memory. As over a network,
// the vendor goes on with a request after the caller has given up.
func (s *Sim) Transport() http.RoundTripper { return Transport(s) }

// Transport returns an http.RoundTripper that calls a handler in memory.
func Transport(h http.Handler) http.RoundTripper { return transport{h} }

type transport struct{ handler http.Handler }

// errReset is returned for a handler that aborts before it has flushed.
var errReset = errors.New("connection reset by peer")

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	incoming := r.Clone(r.Context())
	incoming.Host = r.URL.Host
	if incoming.Body == nil {
		incoming.Body = http.NoBody
	}
	done := make(chan *http.Response, 1)
	go func() {
		recorder := httptest.NewRecorder()
		defer func() {
			switch p := recover(); p {
			case nil:
			case http.ErrAbortHandler:
				if recorder.Flushed {
					resp := recorder.Result()
					resp.Body = brokenOff{resp.Body}
					done <- resp
				}
				close(done)
			default:
				panic(p)
			}
		}()
		t.handler.ServeHTTP(recorder, incoming)
		done <- recorder.Result()
	}()
	select {
	case resp, answered := <-done:
		if !answered {
			return nil, errReset
		}
		resp.Request = r
		return resp, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// brokenOff is the body of a response whose handler aborts after it has flushed.
type brokenOff struct{ io.ReadCloser }

func (b brokenOff) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}
