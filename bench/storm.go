package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

const (
	// storms is the number of storms per path.
	storms = 3

	// lifetime is that of the tokens that expire before a storm.
	lifetime = 20 * time.Second

	// vendorsTime is how long the vendor takes for an exchange.
	vendorsTime = 500 * time.Millisecond
)

// A storm is the result of many concurrent reads of an expired token.
type storm struct {
	Path      string  `json:"path"`
	Readers   int     `json:"readers"`
	Exchanges int     `json:"exchanges"`
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
	Longest   float64 `json:"longest_ms"`
}

// storms measures all storms, each with another credential.
func (b *bench) storms(ctx context.Context) (found []storm, err error) {
	paths := slices.Repeat([]string{"creds", "token"}, storms)
	return found, b.in(ctx, vaultserver.StartDev, func(w *world) error {
		if err := w.mount(ctx, engine, engine); err != nil {
			return err
		}
		readers := make([]*reader, b.readers)
		for i := range readers {
			readers[i] = newReader(w.server)
			defer readers[i].close()
		}
		// The engine does not renew tokens without a reader, so these expire.
		for n := range paths {
			if err := w.write(ctx, engine, n, map[string]any{"access_expiry": int(lifetime.Seconds())}); err != nil {
				return err
			}
		}
		b.say("waiting %s until the tokens expire", lifetime)
		if err := pause(ctx, lifetime+time.Second); err != nil {
			return err
		}
		w.vendor.Behave(vendorsim.Conduct{Latency: vendorsTime})
		for n, path := range paths {
			s, err := w.storm(ctx, readers, path, n)
			if err != nil {
				return err
			}
			b.say("%d readers of %s/: exchanges: %d, p99 %.0f ms", s.Readers, path, s.Exchanges, s.P99)
			found = append(found, s)
		}
		return nil
	})
}

func (w *world) storm(ctx context.Context, readers []*reader, path string, n int) (storm, error) {
	// Open all connections first: clients usually have them.
	if _, err := together(readers, func(r *reader) error { _, err := r.get(ctx, "sys/health"); return err }); err != nil {
		return storm{}, err
	}
	before, err := w.exchanges(ctx, n)
	if err != nil {
		return storm{}, err
	}
	tokens := make(chan string, len(readers))
	times, err := together(readers, func(r *reader) error {
		token, err := r.get(ctx, engine+"/"+path+"/"+name(n))
		tokens <- token
		return err
	})
	if err != nil {
		return storm{}, err
	}
	close(tokens)
	first := <-tokens
	for token := range tokens {
		if token != first {
			return storm{}, errors.New("readers got different tokens")
		}
	}
	after, err := w.exchanges(ctx, n)
	if err != nil {
		return storm{}, err
	}
	return storm{
		Path: path, Readers: len(readers), Exchanges: after - before,
		P50: percentile(times, 50), P99: percentile(times, 99), Longest: percentile(times, 100),
	}, nil
}

// exchanges returns the number of exchanges of the nth credential so far.
func (w *world) exchanges(ctx context.Context, n int) (int, error) {
	status, err := w.read(ctx, engine+"/status", n)
	if err != nil {
		return 0, err
	}
	number, ok := status.Data["exchanges"].(json.Number)
	if !ok {
		return 0, fmt.Errorf("the status of %s has no number of exchanges: %v", name(n), status.Data)
	}
	exchanges, err := number.Int64()
	return int(exchanges), err
}

// together runs do for all readers at once, and returns the times in milliseconds from the
// common start to the end of each, in ascending order. The time until a goroutine is scheduled
// counts.
func together(readers []*reader, do func(*reader) error) ([]float64, error) {
	times, failures := make([]float64, len(readers)), make([]error, len(readers))
	start := make(chan struct{})
	var started time.Time
	var reading sync.WaitGroup
	for i, r := range readers {
		reading.Go(func() {
			<-start
			failures[i] = do(r)
			times[i] = milliseconds(time.Since(started))
		})
	}
	started = time.Now()
	close(start)
	reading.Wait()
	slices.Sort(times)
	return times, errors.Join(failures...)
}

// percentile returns the smallest value that at least percent % of the values do not exceed.
func percentile(sorted []float64, percent int) float64 {
	return sorted[(len(sorted)*percent+99)/100-1]
}

// A reader is a client with its own connection.
type reader struct {
	server *vaultserver.Server
	client http.Client
}

func newReader(server *vaultserver.Server) *reader {
	return &reader{server: server, client: http.Client{Transport: &http.Transport{MaxIdleConns: 1}, Timeout: time.Minute}}
}

func (r *reader) close() { r.client.CloseIdleConnections() }

// get reads a path and returns the access token of the response, or "" if it has none.
func (r *reader) get(ctx context.Context, path string) (string, error) {
	body, err := r.body(ctx, path)
	if err != nil {
		return "", err
	}
	var answer struct {
		Data struct {
			AccessToken string `json:"access_token"`
		} `json:"data"`
	}
	err = json.Unmarshal(body, &answer)
	return answer.Data.AccessToken, err
}

// body reads a path and returns the body of the response.
func (r *reader) body(ctx context.Context, path string) ([]byte, error) {
	status, body, err := r.fetch(ctx, path)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%s: status %d: %s", path, status, body)
	}
	return body, err
}

// fetch reads a path and returns the status and the body of the response.
func (r *reader) fetch(ctx context.Context, path string) (status int, body []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.server.Address+"/v1/"+path, nil)
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("X-Vault-Token", r.server.Token)
	response, err := r.client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	body, err = io.ReadAll(response.Body)
	return response.StatusCode, body, err
}
