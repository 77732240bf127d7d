package provider

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // some vendors name a certificate by it
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"math/big"
	"regexp"
	"strings"
	"unicode"
)

// A pemBlock is one block of a PEM file.
type pemBlock struct {
	label       string
	der         []byte // nil if it is not base64
	isEncrypted bool
}

var (
	pemMarker = regexp.MustCompile(`-----(BEGIN|END) ([A-Z0-9 ]{1,40})-----`)
	pemHeader = regexp.MustCompile(`(?m)^\s*[A-Za-z-]+:.*$`)

	// pemEscapes undoes the escapes of a file that was quoted for JSON or a shell.
	pemEscapes = strings.NewReplacer(`\r`, "\n", `\n`, "\n", `\t`, " ", `\`, "")
)

// readPEM returns the blocks of a PEM file. The file may be pasted on one line, indented,
// quoted, or with line breaks written as \n. unfinished is the label of a block without its
// END line; "" if there is none.
func readPEM(text string) (blocks []pemBlock, unfinished string) {
	text = pemEscapes.Replace(text)
	markers := pemMarker.FindAllStringSubmatchIndex(text, -1)
	part := func(m []int, i int) string { return text[m[2*i]:m[2*i+1]] }
	for i, begin := range markers {
		if part(begin, 1) != "BEGIN" {
			continue
		}
		label := part(begin, 2)
		if i+1 == len(markers) || part(markers[i+1], 1) != "END" || part(markers[i+1], 2) != label {
			unfinished = label
			continue
		}
		body := text[begin[1]:markers[i+1][0]]
		blocks = append(blocks, pemBlock{
			label:       label,
			der:         decodePEM(pemHeader.ReplaceAllString(body, "")),
			isEncrypted: label == "ENCRYPTED PRIVATE KEY" || strings.Contains(body, "DEK-Info:"),
		})
	}
	return blocks, unfinished
}

func decodePEM(body string) []byte {
	body = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || !unicode.IsGraphic(r) {
			return -1
		}
		return r
	}, body)
	der, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(body, "="))
	if err != nil {
		return nil
	}
	return der
}

const isPrivate = "PRIVATE KEY" // ends the label of a private key

const (
	// minRSABits is the minimum that vendors accept; Kensho's guide asks for 2048. With more
	// than maxRSABits, a signature takes seconds.
	minRSABits = 2048
	maxRSABits = 8192
)

// parsePrivateKey returns the first private key in a PEM file. Its errors do not wrap those
// of the parsers, which may quote the key.
func parsePrivateKey(text string) (crypto.Signer, error) {
	blocks, unfinished := readPEM(text)
	for _, block := range blocks {
		if strings.HasSuffix(block.label, isPrivate) {
			return block.privateKey()
		}
	}
	switch {
	case strings.HasSuffix(unfinished, isPrivate):
		return nil, Errorf(Invalid, "private_key: the -----END line is missing or does not match; give the whole file")
	case len(blocks) > 0 || unfinished != "":
		return nil, Errorf(Invalid, `private_key: the PEM contains no private key; give "RSA PRIVATE KEY", "EC PRIVATE KEY" or "PRIVATE KEY"`)
	case isFileName(text):
		return nil, Errorf(Invalid, "private_key: looks like a file name; to give the contents of the file, put @ before its name (private_key=@key.pem)")
	case strings.HasPrefix(text, "LS0tLS1CRUdJTi"):
		return nil, Errorf(Invalid, "private_key: is a PEM file in base64; decode it first (base64 -d)")
	case strings.HasPrefix(text, "{"):
		return nil, Errorf(Invalid, "private_key: is JSON; give the key in PEM")
	}
	return nil, Errorf(Invalid, "private_key: not PEM; give the whole file, from -----BEGIN to END-----")
}

func (b pemBlock) privateKey() (crypto.Signer, error) {
	switch {
	case b.isEncrypted:
		return nil, Errorf(Invalid, "private_key: is encrypted; give the key without a passphrase")
	case b.label == "OPENSSH PRIVATE KEY":
		return nil, Errorf(Invalid, "private_key: is in the OpenSSH format; convert it to PEM with ssh-keygen -p -m PEM")
	}
	// Check the size first, as parsing a very long key takes seconds.
	if bits, isRSA := rsaBits(b.der); isRSA && (bits < minRSABits || bits > maxRSABits) {
		return nil, Errorf(Invalid, "private_key: has %d bits; give an RSA key of %d to %d bits", bits, minRSABits, maxRSABits)
	}
	key, err := x509.ParsePKCS8PrivateKey(b.der)
	if err != nil {
		key, err = x509.ParsePKCS1PrivateKey(b.der)
	}
	if err != nil {
		key, err = x509.ParseECPrivateKey(b.der)
	}
	if err != nil {
		return nil, Errorf(Invalid, "private_key: cannot parse the key in the PEM")
	}
	switch key := key.(type) {
	case *rsa.PrivateKey:
		return key, nil
	case *ecdsa.PrivateKey:
		return key, nil
	case ed25519.PrivateKey:
		return key, nil
	}
	return nil, Errorf(Invalid, "private_key: unsupported type of key; give an RSA, EC or Ed25519 key")
}

// rsaBits returns the length of the modulus of an RSA key in PKCS#1 or PKCS#8, without
// validating the key.
func rsaBits(der []byte) (bits int, isRSA bool) {
	var wrapper struct {
		Version   int
		Algorithm pkix.AlgorithmIdentifier
		Key       []byte
	}
	if _, err := asn1.Unmarshal(der, &wrapper); err == nil {
		der = wrapper.Key
	}
	var key struct {
		Version int
		N, E    *big.Int
	}
	if _, err := asn1.Unmarshal(der, &key); err != nil {
		return 0, false
	}
	return key.N.BitLen(), true
}

// Certificates parses a ca_cert and returns the certificates that a [Client] trusts. A config
// read returns ca_cert, so it must contain nothing but certificates. Certificates that Go
// cannot parse are skipped if there are others. Its error is of kind Invalid.
func Certificates(caCert string) ([]*x509.Certificate, error) {
	blocks, unfinished := readPEM(caCert)
	for _, label := range append(labels(blocks), unfinished) {
		switch {
		case strings.HasSuffix(label, isPrivate):
			return nil, Errorf(Invalid, "ca_cert: contains a private key; give only certificates")
		case label != "" && label != "CERTIFICATE":
			return nil, Errorf(Invalid, `ca_cert: contains a PEM block that is not a certificate; give only "CERTIFICATE" blocks`)
		}
	}
	if strings.Contains(caCert, isPrivate) { // in a damaged block
		return nil, Errorf(Invalid, "ca_cert: contains a private key; give only certificates")
	}
	if unfinished != "" {
		return nil, Errorf(Invalid, "ca_cert: the -----END line is missing or does not match; give the whole file")
	}
	var certificates []*x509.Certificate
	for _, block := range blocks {
		if certificate, err := x509.ParseCertificate(block.der); err == nil {
			certificates = append(certificates, certificate)
		}
	}
	switch {
	case len(certificates) > 0:
		return certificates, nil
	case isFileName(caCert):
		return nil, Errorf(Invalid, "ca_cert: looks like a file name; to give the contents of the file, put @ before its name (ca_cert=@ca.pem)")
	}
	return nil, Errorf(Invalid, "ca_cert: contains no certificate; give one or more in PEM")
}

func labels(blocks []pemBlock) []string {
	all := make([]string, len(blocks))
	for i, block := range blocks {
		all[i] = block.label
	}
	return all
}

// isFileName reports whether a text looks like the name of a key or certificate file.
func isFileName(text string) bool {
	return len(text) <= 255 && fileName.MatchString(text)
}

var fileName = regexp.MustCompile(`(?i)^[^\n]*\.(pem|key|p8|pk8|pkcs8|der|crt|cer|cert|txt)$`)

// PublicKeyDigest returns the SHA-256 of the public half of a private key in PEM: of its
// SubjectPublicKeyInfo in DER, in base64.
func PublicKeyDigest(privateKey string) (string, error) {
	key, err := parsePrivateKey(privateKey)
	if err != nil {
		return "", err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return "", Errorf(Invalid, "private_key: has no public half in PKIX form")
	}
	sum := sha256.Sum256(der)
	return base64.StdEncoding.EncodeToString(sum[:]), nil
}

// CertificateSHA256 returns the x5t#S256 (RFC 7517 §4.9) of the first certificate in a PEM file.
func CertificateSHA256(text string) (string, error) {
	der, err := firstCertificate(text)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// CertificateSHA1 returns the x5t (RFC 7517 §4.8) of the first certificate in a PEM file. Some vendors
// take no other thumbprint.
func CertificateSHA1(text string) (string, error) {
	der, err := firstCertificate(text)
	if err != nil {
		return "", err
	}
	sum := sha1.Sum(der) //nolint:gosec // a name of the certificate, not a protection
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

func firstCertificate(text string) ([]byte, error) {
	blocks, _ := readPEM(text)
	for _, block := range blocks {
		if block.label == "CERTIFICATE" && len(block.der) > 0 {
			return block.der, nil
		}
	}
	return nil, Errorf(Invalid, "certificate: contains no certificate in PEM; give the whole file, from -----BEGIN CERTIFICATE----- to END")
}

// CheckCertificate returns an error of kind Invalid unless a certificate is that of a private key, both in
// PEM.
func CheckCertificate(certificate, privateKey string) error {
	der, err := firstCertificate(certificate)
	if err != nil {
		return err
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return Errorf(Invalid, "certificate: cannot parse the certificate in the PEM")
	}
	key, err := parsePrivateKey(privateKey)
	if err != nil {
		return err
	}
	if own, is := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !is || !own.Equal(parsed.PublicKey) {
		return Errorf(Invalid, "certificate: is not that of the private_key; give the one that was issued for its public key")
	}
	return nil
}
