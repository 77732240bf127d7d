package vendorsim

import (
	"encoding/json"
	"net/http"
)

// A reply is a response: JSON, or the bytes of a page. violation, unless empty, says what is wrong with the request.
type reply struct {
	status    int
	header    map[string]string
	body      any // nil for none, []byte for a page
	violation string
}

// notPost returns the reply to a request that is not a POST without a query; nil if it is one.
func notPost(r *http.Request) *reply {
	var wrong reply
	switch {
	case r.Method != http.MethodPost:
		wrong = violation(http.StatusMethodNotAllowed, "must be a POST")
	case r.URL.RawQuery != "":
		wrong = violation(http.StatusBadRequest, "must have no query")
	default:
		return nil
	}
	return &wrong
}

func ok(body any) reply { return reply{status: http.StatusOK, body: body} }

func refuse(status int, reason string) reply {
	return reply{status: status, body: map[string]string{"error": reason}}
}

func violation(status int, text string) reply {
	return reply{status: status, body: map[string]string{"error": text}, violation: text}
}

func (r reply) write(w http.ResponseWriter) {
	for name, value := range r.header {
		w.Header().Set(name, value)
	}
	if r.body == nil {
		w.WriteHeader(r.status)
		return
	}
	if page, isPage := r.body.([]byte); isPage {
		w.WriteHeader(r.status)
		_, _ = w.Write(page)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(r.status)
	// Ignore the error of a caller that has gone away.
	_ = json.NewEncoder(w).Encode(r.body)
}
