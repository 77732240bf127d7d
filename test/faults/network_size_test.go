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

	// answerMiB is the size of an answer, and maxBufferedMiB the part of it that may be in the
	// buffers of the network and the engine.
	answerMiB      = 1024
	maxBufferedMiB = 16
)

func TestFaultOversizedAnswersTakeLittleMemory(t *testing.T) {
	row := tally.Row{Fault: "vendor: 1 GiB of answer"}
	for name, test := range map[string]struct {
		inject  func(n *network, written *atomic.Int64)
		outcome outcome
		says    string
	}{
		"a body": {tooLong("", bytes.Repeat([]byte("a"), mebibyte)), invalidResponse, "the response is over 1 MiB"},
		// The limit counts the decompressed bytes.
		"a compressed body": {tooLong("gzip", gzipped(bytes.Repeat([]byte("a"), mebibyte))), invalidResponse, "the response is over 1 MiB"},
		"a header":          {tooManyHeaders, unavailable, "headers exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				var written atomic.Int64
				test.inject(n, &written)

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
				synctest.Wait() // the vendor notices that the engine closed the connection
				reads := int64(len(n.configs))
				assert.Less(t, (allocated()-before)/mebibyte/reads, int64(maxBufferedMiB), "MiB allocated for each read, including the vendor's")
				assert.Less(t, written.Load()/mebibyte/reads, int64(maxBufferedMiB), "MiB that the vendor wrote before the engine closed the connection")
				assert.Positive(t, written.Load())
				row.Leaks += n.witness.Leaks(n.Engine, []string{oddRefreshToken, oddAPIKey, oddSecret})
			})
		})
	}
	tally.Record(t, row)
}

// allocated returns the number of bytes that the process has allocated so far.
func allocated() int64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.TotalAlloc)
}

// gzipped compresses a part of an answer. Concatenated parts are one valid gzip stream.
func gzipped(part []byte) []byte {
	var buffer bytes.Buffer
	zip := gzip.NewWriter(&buffer)
	_, _ = zip.Write(part)
	_ = zip.Close()
	return buffer.Bytes()
}

// tooLong makes the vendor answer with answerMiB copies of a part.
func tooLong(encoding string, part []byte) func(*network, *atomic.Int64) {
	return func(n *network, written *atomic.Int64) {
		answered(func(w http.ResponseWriter, _ *http.Request) {
			if encoding != "" {
				w.Header().Set("Content-Encoding", encoding)
			}
			for range answerMiB {
				size, err := w.Write(part)
				written.Add(int64(size))
				if err != nil {
					return
				}
			}
		})(n)
	}
}

// tooManyHeaders makes the vendor answer with headers that do not end.
func tooManyHeaders(n *network, written *atomic.Int64) {
	header := strings.Repeat("X-More: "+strings.Repeat("a", 1000)+"\r\n", 1000)
	raw("HTTP/1.1 200 OK\r\n", func(conn net.Conn) {
		for range answerMiB {
			size, err := io.WriteString(conn, header)
			written.Add(int64(size))
			if err != nil {
				return
			}
		}
	})(n)
}
