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
	// storms are how many there are for each path.
	storms = 3

	// life is that of the tokens whose end is waited for.
	life = 20 * time.Second

	// vendorsTime is what an exchange takes at the vendor.
	vendorsTime = 500 * time.Millisecond
)

// A storm is many readers who come at once when a token has died.
type storm struct {
	Path      string  `json:"path"`
	Readers   int     `json:"readers"`
	Exchanges int     `json:"exchanges"`
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
	Longest   float64 `json:"longest_ms"`
}

// storms has the readers come, each time for another credential.
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
		// Nobody reads them before they die, so that nothing renews them meanwhile.
		for n := range paths {
			if err := w.write(ctx, engine, n, map[string]any{"access_expiry": int(life.Seconds())}); err != nil {
				return err
			}
		}
		b.say("letting tokens of %s die", life)
		if err := pause(ctx, life+time.Second); err != nil {
			return err
		}
		w.vendor.Behave(vendorsim.Conduct{Latency: vendorsTime})
		for n, path := range paths {
			s, err := w.storm(ctx, readers, path, n)
			if err != nil {
				return err
			}
			b.say("%d readers of %s/: %d exchange, p99 %.0f ms", s.Readers, path, s.Exchanges, s.P99)
			found = append(found, s)
		}
		return nil
	})
}

func (w *world) storm(ctx context.Context, readers []*reader, path string, n int) (storm, error) {
	// Connections are there before, as clients have them.
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

// exchanges is how many there have been of the nth credential.
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

// together has all readers do something at once, and returns how many milliseconds after
// that each was done, in order: one that had to wait before it could begin has waited.
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

// percentile is the smallest value that so many percent are not above.
func percentile(sorted []float64, percent int) float64 {
	return sorted[(len(sorted)*percent+99)/100-1]
}

// A reader has a connection of its own.
type reader struct {
	server *vaultserver.Server
	client http.Client
}

func newReader(server *vaultserver.Server) *reader {
	return &reader{server: server, client: http.Client{Transport: &http.Transport{MaxIdleConns: 1}, Timeout: time.Minute}}
}

func (r *reader) close() { r.client.CloseIdleConnections() }

// get is the access token of an answer, if it has one.
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

// body is an answer as it comes.
func (r *reader) body(ctx context.Context, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.server.Address+"/v1/"+path, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("X-Vault-Token", r.server.Token)
	response, err := r.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: status %d: %s", path, response.StatusCode, body)
	}
	return body, err
}
