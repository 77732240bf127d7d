package faults_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
	"vault-plugin-secrets-tokenbroker/internal/testing/tally"
)

const (
	mebibyte = 1 << 20

	// tooMuch is the size of an answer in MiB, and enough how much of it may be in buffers:
	// the network's and ours.
	tooMuch = 1024
	enough  = 16
)

func TestFaultsOfSizeTakeNoMemory(t *testing.T) {
	row := tally.Row{Fault: "vendor: 1 GiB of answer"}
	for name, test := range map[string]struct {
		strike  func(n *network, written *atomic.Int64)
		outcome outcome
		says    string
	}{
		"an answer": {tooLong("", bytes.Repeat([]byte("a"), mebibyte)), invalidResponse, "the response is over 1 MiB"},
		// A page that unfolds is bounded by what it unfolds to.
		"an answer, packed": {tooLong("gzip", packed(bytes.Repeat([]byte("a"), mebibyte))), invalidResponse, "the response is over 1 MiB"},
		"a header":          {tooManyHeaders, unavailable, "headers exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				var written atomic.Int64
				test.strike(n, &written)

				before := allocated()
				for name := range n.configs {
					resp, status, message := n.request(logical.ReadOperation, "creds/"+name, nil)
					row.Tried++
					if valid := n.tokens[name]; valid != "" {
						require.Equal(t, http.StatusOK, status, message)
						assert.Equal(t, valid, engine.TokenOf(resp))
						continue
					}
					assert.Equal(t, test.outcome.status, status, message)
					assert.Contains(t, message, test.says)
				}
				synctest.Wait() // until the vendor has noticed that the engine hung up
				reads := int64(len(n.configs))
				assert.Less(t, (allocated()-before)/mebibyte/reads, int64(enough), "MiB allocated for each read, by the vendor too")
				assert.Less(t, written.Load()/mebibyte/reads, int64(enough), "MiB that the vendor could write before the engine hung up")
				assert.Positive(t, written.Load())
				row.Leaks += n.heard.Leaks(n.Engine, []string{oddRefreshToken, oddAPIKey, oddSecret})
			})
		})
	}
	tally.Record(t, row)
}

// allocated is how much memory has been asked for so far.
func allocated() int64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.TotalAlloc)
}

// packed is a part as gzip has it. Parts that follow each other are one.
func packed(part []byte) []byte {
	var buffer bytes.Buffer
	zip := gzip.NewWriter(&buffer)
	_, _ = zip.Write(part)
	_ = zip.Close()
	return buffer.Bytes()
}

// tooLong has an answer be of very many parts.
func tooLong(encoding string, part []byte) func(*network, *atomic.Int64) {
	return func(n *network, written *atomic.Int64) {
		answered(func(w http.ResponseWriter, _ *http.Request) {
			if encoding != "" {
				w.Header().Set("Content-Encoding", encoding)
			}
			for range tooMuch {
				size, err := w.Write(part)
				written.Add(int64(size))
				if err != nil {
					return
				}
			}
		})(n)
	}
}

// tooManyHeaders has an answer not come to an end of its headers.
func tooManyHeaders(n *network, written *atomic.Int64) {
	header := strings.Repeat("X-More: "+strings.Repeat("a", 1000)+"\r\n", 1000)
	raw("HTTP/1.1 200 OK\r\n", func(conn net.Conn) {
		for range tooMuch {
			size, err := io.WriteString(conn, header)
			written.Add(int64(size))
			if err != nil {
				return
			}
		}
	})(n)
}
