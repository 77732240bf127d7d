package provider

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var testKey = sync.OnceValue(func() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
})

func pkcs8PEM(t *testing.T, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	return block("PRIVATE KEY", der)
}

func certificatePEM(t *testing.T) string {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, testKey().Public(), testKey())
	require.NoError(t, err)
	return block("CERTIFICATE", der)
}

// pastes returns the forms in which operators paste a PEM file, by name.
func pastes(t *testing.T, file string) map[string]string {
	t.Helper()
	quoted, err := json.Marshal(file)
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(file), "\n")
	return map[string]string{
		"as it is":              file,
		"a byte order mark":     "\ufeff" + file,
		"CRLF line breaks":      strings.ReplaceAll(file, "\n", "\r\n"),
		"CR line breaks":        strings.ReplaceAll(file, "\n", "\r"),
		`\n as two characters`:  strings.ReplaceAll(file, "\n", `\n`),
		`\r\n as four`:          strings.ReplaceAll(file, "\n", `\r\n`),
		`\\n as three`:          strings.ReplaceAll(file, "\n", `\\n`),
		"as JSON":               string(quoted),
		"as JSON, by PHP":       strings.ReplaceAll(string(quoted), "/", `\/`),
		"one line":              strings.Join(lines, ""),
		"one line, with spaces": strings.Join(lines, " "),
		"indented":              "  " + strings.Join(lines, "\n    "),
		"with empty lines":      strings.Join(lines, "\n\n"),
		"with text around it":   "Bag Attributes\n  friendlyName: key\n" + file + "and after it",
		"in quotes":             `'` + file + `'`,
		"no-break spaces":       strings.Join(lines, "\u00a0\n"),
		"no padding":            strings.ReplaceAll(file, "=", ""),
	}
}

func TestAPrivateKeyIsParsedInAnyPastedForm(t *testing.T) {
	key := pkcs8PEM(t, testKey())
	files := pastes(t, key)
	files["a certificate before it"] = certificatePEM(t) + key
	files["a certificate after it"] = key + certificatePEM(t)
	files["parameters before it"] = block("EC PARAMETERS", []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7}) + key
	files["the public key before it"] = block("PUBLIC KEY", []byte{1}) + key
	files["another key after it"] = key + block("PRIVATE KEY", []byte{1})
	files["an unfinished block before it"] = "-----BEGIN CERTIFICATE-----\nMIIB\n" + key
	files["another label"] = strings.ReplaceAll(key, "PRIVATE KEY", "RSA PRIVATE KEY")
	files["a service account's JSON"] = `{"type": "service_account", "private_key": "` + strings.ReplaceAll(key, "\n", `\n`) + `", "client_id": "7"}`
	files["a certificate before it, on one line"] = strings.ReplaceAll(certificatePEM(t)+key, "\n", " ")
	for name, text := range files {
		signer, err := NewSigner(text, "", "")
		if assert.NoError(t, err, name) {
			assert.True(t, testKey().Equal(signer.key), name)
		}
	}
}

func TestAnUnusableKeyIsReportedWithTheReason(t *testing.T) {
	key := pkcs8PEM(t, testKey())
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	require.NoError(t, err)
	lines := strings.Split(key, "\n")
	for name, test := range map[string]struct{ text, says string }{
		"a file name":          {"key.pem", "looks like a file name; to give the contents of the file, put @ before its name (private_key=@key.pem)"},
		"a file path":          {"/etc/my keys/prod.KEY", "looks like a file name"},
		"the file in base64":   {base64.StdEncoding.EncodeToString([]byte(key)), "is a PEM file in base64; decode it first"},
		"a JWK":                {`{"kty":"EC","crv":"P-256"}`, "is JSON; give the key in PEM"},
		"only the body":        {strings.Join(lines[1:len(lines)-2], "\n"), "not PEM; give the whole file"},
		"cut off":              {key[:len(key)-30], "the -----END line is missing or does not match"},
		"another END line":     {strings.Replace(key, "END PRIVATE", "END PUBLIC", 1), "the -----END line is missing"},
		"a certificate":        {certificatePEM(t), "the PEM contains no private key"},
		"a passphrase":         {block("ENCRYPTED PRIVATE KEY", []byte{1}), "is encrypted"},
		"a passphrase, PKCS#1": {"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n", "is encrypted"},
		"the OpenSSH format":   {block("OPENSSH PRIVATE KEY", []byte("openssh-key-v1")), "is in the OpenSSH format; convert it"},
		"an invalid body":      {lines[0] + "\ncanary!\n" + lines[len(lines)-2], "cannot parse the key in the PEM"},
		"RSA, of 1024 bits":    {pkcs8PEM(t, small), "has 1024 bits; give an RSA key of 2048 to 8192 bits"},
		"an unsupported curve": {pkcs8PEM(t, p224), "unsupported curve; give a key on P-256, P-384 or P-521"},
	} {
		_, err := NewSigner(test.text, "", "")
		requireInvalid(t, err)
		assert.Contains(t, err.Error(), "private_key: "+test.says, name)
		assert.NotContains(t, err.Error(), "canary")
	}
}

func TestAnRSAKeyThatIsTooLongIsRefused(t *testing.T) {
	for _, bits := range []int{maxRSABits + 1, 32768} {
		der, err := asn1.Marshal(likeRSA(bits))
		require.NoError(t, err)
		wrapped, err := asn1.Marshal(struct {
			Version   int
			Algorithm pkix.AlgorithmIdentifier
			Key       []byte
		}{0, pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}, Parameters: asn1.NullRawValue}, der})
		require.NoError(t, err)
		for _, text := range []string{block("RSA PRIVATE KEY", der), block("PRIVATE KEY", wrapped)} {
			_, err = NewSigner(text, "", "")
			requireInvalid(t, err)
			require.EqualError(t, err, fmt.Sprintf("private_key: has %d bits; give an RSA key of 2048 to 8192 bits", bits))
		}
	}
	der, err := asn1.Marshal(likeRSA(maxRSABits))
	require.NoError(t, err)
	_, err = NewSigner(block("RSA PRIVATE KEY", der), "", "")
	require.ErrorContains(t, err, "cannot parse the key", "the numbers are not those of a key")
}

// pkcs1 is an RSA private key (RFC 8017 §A.1.2).
type pkcs1 struct {
	Version                   int
	N, E, D, P, Q, DP, DQ, QI *big.Int
}

// likeRSA has the length of a key, without the time that it takes to generate one.
func likeRSA(bits int) pkcs1 {
	number := func(bits int) *big.Int { return new(big.Int).SetBit(big.NewInt(1), bits-1, 1) }
	half := number(bits / 2)
	return pkcs1{0, number(bits), big.NewInt(65537), number(bits), half, half, half, half, half}
}

func TestAKeySignsWithEachAlgorithmThatFitsIt(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, minRSABits)
	require.NoError(t, err)
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	on := func(curve elliptic.Curve) crypto.Signer {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		require.NoError(t, err)
		return key
	}
	var all []string
	for _, test := range []struct {
		key crypto.Signer
		fit []string
	}{
		{rsaKey, []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}},
		{on(elliptic.P256()), []string{"ES256"}},
		{on(elliptic.P384()), []string{"ES384"}},
		{on(elliptic.P521()), []string{"ES512"}},
		{edKey, []string{"EdDSA"}},
	} {
		text := pkcs8PEM(t, test.key)
		signer, err := NewSigner(text, "", "")
		require.NoError(t, err)
		assert.Equal(t, test.fit[0], signer.method.Alg(), "the default")
		for _, algorithm := range Algorithms {
			signer, err := NewSigner(text, algorithm, "")
			if assert.Equal(t, slices.Contains(test.fit, algorithm), err == nil, algorithm) && err == nil {
				assert.Equal(t, algorithm, signer.method.Alg())
				requireSigns(t, signer)
				continue
			}
			require.ErrorContains(t, err, "use "+strings.Join(test.fit, " or "))
		}
		all = append(all, test.fit...)
	}
	assert.Equal(t, Algorithms, all)
}

func TestACACertIsParsedInAnyPastedForm(t *testing.T) {
	for name, text := range pastes(t, certificatePEM(t)) {
		_, err := NewClient(ClientOptions{CACert: text})
		require.NoError(t, err, name)
	}
	text := certificatePEM(t) + certificatePEM(t)
	want := x509.NewCertPool()
	require.True(t, want.AppendCertsFromPEM([]byte(text)))
	client, err := NewClient(ClientOptions{CACert: "\ufeff" + text})
	require.NoError(t, err)
	assert.True(t, want.Equal(client.roots), "both are trusted")
}

func TestGuarantee6OnlyCertificatesAreStoredAsACACert(t *testing.T) {
	certificate, key := certificatePEM(t), pkcs8PEM(t, testKey())
	for name, test := range map[string]struct{ text, says string }{
		"a key after it":                  {certificate + key, "contains a private key; give only certificates"},
		"a key before it":                 {key + certificate, "contains a private key"},
		"a key on one line":               {certificate + strings.ReplaceAll(key, "\n", `\n`), "contains a private key"},
		"a key, indented":                 {certificate + strings.ReplaceAll(key, "\n", "\n  "), "contains a private key"},
		"a key without an END line":       {certificate + key[:len(key)-20], "contains a private key"},
		"a key with a damaged BEGIN line": {certificate + strings.Replace(key, "-----BEGIN", "---BEGIN", 1), "contains a private key"},
		"a key with a passphrase":         {certificate + block("ENCRYPTED PRIVATE KEY", []byte{1}), "contains a private key"},
		"a public key":                    {certificate + block("PUBLIC KEY", []byte{1}), "contains a PEM block that is not a certificate"},
		"a request":                       {block("CERTIFICATE REQUEST", []byte{1}), "contains a PEM block that is not a certificate"},
		"nothing":                         {"none", "contains no certificate; give one or more in PEM"},
		"an invalid certificate":          {block("CERTIFICATE", []byte{1}), "contains no certificate"},
		"a file name":                     {"ca.crt", "looks like a file name; to give the contents of the file, put @ before its name (ca_cert=@ca.pem)"},
		"cut off":                         {certificate[:len(certificate)-20], "the -----END line is missing"},
		"a second one, cut off":           {certificate + certificate[:len(certificate)-20], "the -----END line is missing"},
		"a certificate of OpenSSL's":      {string(pem.EncodeToMemory(&pem.Block{Type: "TRUSTED CERTIFICATE", Bytes: []byte{1}})), "contains a PEM block that is not a certificate"},
	} {
		_, err := NewClient(ClientOptions{CACert: test.text})
		if assert.ErrorContains(t, err, "ca_cert: "+test.says, name) {
			requireInvalid(t, err)
		}
	}
}
