package provider

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math"
	"math/big"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
)

// jwtExpiry accepts any token, and returns the exp that it contains.
func FuzzJWTExpiry(f *testing.F) {
	encode := base64.RawURLEncoding.EncodeToString
	for _, claims := range []string{
		`{"exp":1770000000}`, `{"exp":1770000000.9}`, `{"exp":"1770000000"}`, `{"exp":-5}`, `{"exp":0}`, `{"exp":1e300}`,
		`{"exp":253402300799}`, `{"exp":253402300800}`, `{"exp":1e-300}`, `{"exp":null}`, `{"exp":[1]}`, `{"exp":1,"exp":2}`,
		`{"EXP":1770000000}`, `{}`, `[]`, `null`, `{"exp":`, `{"exp":9223372036854775807}`,
		strings.Repeat(`{"a":`, 200) + "1" + strings.Repeat("}", 200),
	} {
		f.Add(encode([]byte(`{"alg":"RS256"}`))+"."+encode([]byte(claims))+".c2ln", claims, 1770000000.0)
	}
	for _, token := range []string{
		"", ".", "..", "...", "opaque", "a.b.c", "eyJhbGciOiJub25lIn0..", "eyJhbGciOiJYWFgifQ.eyJleHAiOjE3NzAwMDAwMDAuOX0.c2ln",
		"eyJhbGciOiJSUzI1NiJ9.eyJleHAiOjE3NzAwMDAwMDB9", "bnVsbA.bnVsbA.bnVsbA", " eyJhbGciOiJSUzI1NiJ9.eyJleHAiOjE3NzAwMDAwMDB9.c2ln",
	} {
		f.Add(token, "", math.Inf(1))
	}
	f.Fuzz(func(t *testing.T, token, claims string, exp float64) {
		check := func(token string) {
			got, ok := jwtExpiry(token)
			want, isThere := expOf(token)
			require.Equal(t, isThere, ok, token)
			if ok {
				require.Equal(t, want, got.Unix())
				require.Zero(t, got.Nanosecond())
				_, err := got.MarshalJSON()
				require.NoError(t, err, "it can be stored")
			}
		}
		check(token)
		check(encode([]byte(`{"alg":"RS256"}`)) + "." + encode([]byte(claims)) + ".c2ln")
		if signed, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"exp": exp}).SignedString([]byte("k")); err == nil {
			check(signed)
			_, ok := jwtExpiry(signed)
			require.Equal(t, exp > 0 && exp <= maxUnixSeconds, ok, exp)
		}
	})
}

// expOf returns the exp of a JWT as the RFCs define it: three parts, of which two are objects.
func expOf(token string) (exp int64, ok bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return 0, false
	}
	var claims map[string]any
	for _, part := range parts[:2] {
		claims = nil
		text, err := base64.RawURLEncoding.DecodeString(part)
		var misfit *json.UnmarshalTypeError // for another claim
		if err != nil {
			return 0, false
		}
		if err := json.Unmarshal(text, &claims); err != nil && !errors.As(err, &misfit) {
			return 0, false
		}
	}
	n, ok := claims["exp"].(float64)
	if !ok || !(n > 0) || n > maxUnixSeconds {
		return 0, false
	}
	return int64(math.Floor(n)), true
}

// retryAfter is never negative, never longer than the header asks for, and never zero because a
// number is too large.
func FuzzRetryAfter(f *testing.F) {
	for _, header := range []string{
		"", "0", "120", "00120", "-1", "+5", "1.5", "1e3", " 120", "120 ", "120s", "2147483647", "2147483648", "99999999999999999999999", "2170000000A", "0x10", "１２",
		"Sun, 01 Mar 2026 10:30:00 GMT", "Sunday, 01-Mar-26 10:30:00 GMT", "Sun Mar  1 10:30:00 2026", "Sun, 01 Mar 2026 10:10:00 GMT",
		"Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 GMT", "Sun, 01 Mar 2026 10:30:00 CET", "soon",
	} {
		f.Add(header, int64(0))
		f.Add(header, int64(1772360400))
		f.Add(header, int64(1772447400)) // a day ahead, which is not believed
	}
	f.Add("Fri, 31 Dec 9999 23:59:59 GMT", int64(-62135596800+1))
	f.Fuzz(func(t *testing.T, header string, date int64) {
		now := at("10:20:00.000")
		clock := Clock{Sent: now.Add(-time.Second), Received: now}
		if date != 0 {
			clock.Date = time.Unix(date%maxUnixSeconds, 0)
		}
		if clock.Believed() {
			now = clock.Date
		}
		got := retryAfter(header, clock)
		require.GreaterOrEqual(t, got, time.Duration(0))
		when, err := http.ParseTime(header)
		switch {
		case digits.MatchString(header):
			asked, _ := new(big.Int).SetString(header, 10)
			if day := big.NewInt(86400); asked.Cmp(day) > 0 {
				asked = day // the engine waits for less
			}
			require.LessOrEqual(t, asked.Int64(), int64(got/time.Second))
			require.False(t, asked.Int64() < 86400 && got != time.Duration(asked.Int64())*time.Second, got)
		case err != nil:
			require.Zero(t, got)
		case got == 0:
			require.False(t, when.After(now))
		case got < math.MaxInt64:
			require.WithinDuration(t, when, now.Add(got), 0)
		}
	})
}

// A key is either accepted and usable, or refused with an error that names its field. The texts
// of these errors are the same for other input: they do not quote the key.
func FuzzPEM(f *testing.F) {
	ec := func(curve elliptic.Curve) *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		require.NoError(f, err)
		return key
	}
	pkcs8 := func(key any) []byte {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		require.NoError(f, err)
		return der
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, minRSABits)
	require.NoError(f, err)
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(f, err)
	sec1, err := x509.MarshalECPrivateKey(ec(elliptic.P256()))
	require.NoError(f, err)
	certificate, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{}, rsaKey.Public(), rsaKey)
	require.NoError(f, err)

	// One input for each error.
	x25519, err := ecdh.X25519().GenerateKey(rand.Reader)
	require.NoError(f, err)
	words := map[string]bool{"private_key: has N bits; give an RSA key of N to N bits": true} // with N for numbers
	for _, text := range []string{
		"", block("ENCRYPTED PRIVATE KEY", nil), block("CERTIFICATE", nil), block("PRIVATE KEY", nil), "key.pem", "{", "LS0tLS1CRUdJTi",
		block("OPENSSH PRIVATE KEY", nil), "-----BEGIN PRIVATE KEY-----",
		block("PRIVATE KEY", pkcs8(x25519)), block("PRIVATE KEY", pkcs8(ec(elliptic.P224()))),
	} {
		_, err := NewSigner(text, "", "")
		require.ErrorContains(f, err, "private_key: ")
		words[numbers.ReplaceAllString(err.Error(), "N")] = true
		f.Add(text, []byte(nil))
	}
	for _, text := range []string{"none", "ca.pem", "-----BEGIN CERTIFICATE-----", block("PRIVATE KEY", nil), block("PUBLIC KEY", nil)} {
		_, err := NewClient(ClientOptions{CACert: text})
		require.ErrorContains(f, err, "ca_cert: ")
		words[err.Error()] = true
	}

	pem1 := block("EC PRIVATE KEY", sec1)
	for _, text := range []string{
		pem1, pem1[:len(pem1)/2], pem1[:40] + "!" + pem1[40:], "text before\n" + pem1 + "and behind", block("EC PARAMETERS", []byte{6}) + pem1,
		"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n",
		"-----BEGIN -----\n-----END -----", "-----BEGIN PRIVATE KEY-----", strings.ReplaceAll(pem1, "\n", "\r\n"), strings.ReplaceAll(pem1, "\n", `\n`),
		block("CERTIFICATE", certificate), block("CERTIFICATE", certificate[:100]) + block("CERTIFICATE", certificate), block("CERTIFICATE", nil),
	} {
		f.Add(text, []byte(nil))
	}
	for _, der := range [][]byte{
		x509.MarshalPKCS1PrivateKey(rsaKey), pkcs8(rsaKey), sec1, pkcs8(ec(elliptic.P256())), pkcs8(ec(elliptic.P384())), pkcs8(ec(elliptic.P224())),
		pkcs8(edKey), x509.MarshalPKCS1PublicKey(&rsaKey.PublicKey), certificate, {0x30}, {0x30, 0x84, 0xff, 0xff, 0xff, 0xff},
	} {
		f.Add("", der)
	}
	f.Fuzz(func(t *testing.T, text string, der []byte) {
		texts := []string{text, string(der)}
		for _, kind := range []string{"RSA PRIVATE KEY", "EC PRIVATE KEY", "PRIVATE KEY"} {
			texts = append(texts, block(kind, der))
		}
		for _, text := range texts {
			signer, err := NewSigner(text, "", "k")
			if err == nil {
				requireSigns(t, signer)
				continue
			}
			requireInvalid(t, err)
			require.True(t, words[numbers.ReplaceAllString(err.Error(), "N")], err.Error())
		}
		for _, text := range []string{text, block("CERTIFICATE", der)} {
			client, err := NewClient(ClientOptions{CACert: text})
			if err != nil {
				requireInvalid(t, err)
				require.True(t, words[err.Error()], err.Error())
			} else if text != "" {
				roots := client.transport().(*http.Transport).TLSClientConfig.RootCAs
				require.False(t, roots.Equal(x509.NewCertPool()), "no authority is trusted")
			}
		}
	})
}

var (
	digits  = regexp.MustCompile(`^[0-9]+$`)
	numbers = regexp.MustCompile(`\b[0-9]+\b`)
)

func block(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func requireInvalid(t *testing.T, err error) {
	t.Helper()
	var e *Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, Invalid, e.Kind)
}

// requireSigns checks that the public key verifies a signature of the signer.
func requireSigns(t *testing.T, s *Signer) {
	t.Helper()
	signed, err := s.Sign(map[string]any{"iss": "c"}, nil)
	require.NoError(t, err)
	_, err = jwt.Parse(signed, func(*jwt.Token) (any, error) { return s.key.(crypto.Signer).Public(), nil })
	require.NoError(t, err)
}
