package main

import (
	"crypto/x509"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A process loads the system's root certificates only once, so the test runs itself in a new
// process.
func TestVendorsAreCheckedInAnImageWithoutAuthorities(t *testing.T) {
	if os.Getenv("SSL_CERT_FILE") == "/nowhere" {
		roots, err := x509.SystemCertPool()
		require.NoError(t, err)
		assert.False(t, roots.Equal(x509.NewCertPool()), "the pool is empty")
		return
	}
	again := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	again.Env = append(os.Environ(), "SSL_CERT_FILE=/nowhere", "SSL_CERT_DIR=/nowhere")
	output, err := again.CombinedOutput()
	require.NoError(t, err, string(output))
}
