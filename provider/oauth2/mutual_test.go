package oauth2_test

import (
	"bufio"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/oauth2"
)

// certificateOf returns a certificate of a key in PEM, signed by the key itself.
func certificateOf(t *testing.T, key crypto.Signer) string {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "billing"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func privatePEM(t *testing.T, key crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// mutualVendor is a token endpoint that knows clients by their certificates (RFC 8705 §2.1).
func mutualVendor(t *testing.T, certificate string) *httptest.Server {
	t.Helper()
	block, _ := pem.Decode([]byte(certificate))
	mux := http.NewServeMux()
	var server *httptest.Server
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{
			"issuer": server.URL, "token_endpoint": server.URL + "/token",
			"mtls_endpoint_aliases": map[string]any{"token_endpoint": server.URL + "/mtls/token"},
		})
	})
	mux.HandleFunc("POST /mtls/token", func(w http.ResponseWriter, r *http.Request) {
		given := r.TLS.PeerCertificates
		if len(given) != 1 || string(given[0].Raw) != string(block.Bytes) || r.PostFormValue("client_id") != "billing" || r.Header.Get("Authorization") != "" || len(r.PostForm) != 2 {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"error":"invalid_client"}`)
			return
		}
		_, _ = io.WriteString(w, `{"access_token":"of-the-certificate","expires_in":3600}`)
	})
	server = httptest.NewUnstartedServer(mux)
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

func openMutual(t *testing.T, server *httptest.Server, proxy string, fields map[string]any) (provider.Credential, error) {
	t.Helper()
	authority := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	client, err := provider.NewClient(provider.ClientOptions{Timeout: 10 * time.Second, CACert: authority, ProxyURL: proxy})
	require.NoError(t, err)
	raw, err := json.Marshal(fields)
	require.NoError(t, err)
	return oauth2.Provider{}.Open(provider.Settings{Fields: raw, Client: client})
}

func TestAClientAuthenticatesWithACertificate(t *testing.T) {
	key := edKey()
	certificate := certificateOf(t, key)
	server := mutualVendor(t, certificate)
	for name, fields := range map[string]map[string]any{
		"by the token endpoint":          {"token_url": server.URL + "/mtls/token"},
		"by the metadata's own endpoint": {"issuer": server.URL},
	} {
		t.Run(name, func(t *testing.T) {
			fields["client_id"], fields["certificate"], fields["private_key"] = "billing", certificate, privatePEM(t, key)
			credential, err := openMutual(t, server, "", fields)
			require.NoError(t, err)
			answer, err := credential.Exchange(t.Context(), provider.Grant{})
			require.NoError(t, err)
			assert.Equal(t, "of-the-certificate", answer.AccessToken)
		})
	}
}

func TestACertificateNeedsItsPrivateKey(t *testing.T) {
	key, other := edKey(), edKey()
	server := mutualVendor(t, certificateOf(t, key))
	fields := func(change map[string]any) map[string]any {
		all := map[string]any{"token_url": server.URL + "/token", "client_id": "billing", "certificate": certificateOf(t, key), "private_key": privatePEM(t, key)}
		for name, value := range change {
			all[name] = value
		}
		return all
	}
	for says, change := range map[string]map[string]any{
		"certificate: is not that of the private_key":                {"private_key": privatePEM(t, other)},
		"private_key: must be set with auth_style=tls_client_auth":   {"private_key": ""},
		"certificate: must be set with auth_style=tls_client_auth":   {"certificate": "", "auth_style": "tls_client_auth"},
		"certificate: applies only to auth_style=tls_client_auth":    {"auth_style": "private_key_jwt"},
		"client_secret: is not used with auth_style=tls_client_auth": {"client_secret": "s"},
		"certificate: contains no certificate in PEM":                {"certificate": "cert.pem"},
	} {
		_, err := openMutual(t, server, "", fields(change))
		assert.ErrorContains(t, err, says)
	}
}

// tunnel is a proxy that counts the hosts to which it connects clients.
func tunnel(t *testing.T, connected chan<- string) string {
	t.Helper()
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		connected <- r.Host
		to, err := (&net.Dialer{}).DialContext(r.Context(), "tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		from, buffered, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		_, _ = io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n")
		go func() {
			_, _ = io.Copy(to, bufio.NewReader(buffered))
			_ = to.Close()
		}()
		_, _ = io.Copy(from, to)
		_ = from.Close()
	}))
	t.Cleanup(proxy.Close)
	return proxy.URL
}

func TestRequestsGoThroughTheCredentialsProxy(t *testing.T) {
	key := edKey()
	certificate := certificateOf(t, key)
	server := mutualVendor(t, certificate)
	connected := make(chan string, 1)
	credential, err := openMutual(t, server, tunnel(t, connected), map[string]any{
		"token_url": server.URL + "/mtls/token", "client_id": "billing", "certificate": certificate, "private_key": privatePEM(t, key),
	})
	require.NoError(t, err)
	_, err = credential.Exchange(t.Context(), provider.Grant{})
	require.NoError(t, err)
	assert.Equal(t, server.Listener.Addr().String(), <-connected)
}

func TestAProxyURLIsChecked(t *testing.T) {
	for url, says := range map[string]string{
		"proxy.example.com":                    "proxy_url: not the URL of a proxy",
		"ftp://proxy.example.com":              "proxy_url: not the URL of a proxy",
		"http://user:secret@proxy.example.com": "proxy_url: must not contain a user name or password",
		"http://proxy.example.com/path":        "proxy_url: must not contain a path",
	} {
		_, err := provider.NewClient(provider.ClientOptions{Timeout: time.Second, ProxyURL: url})
		require.ErrorContains(t, err, says)
		assert.NotContains(t, err.Error(), "secret")
	}
}
