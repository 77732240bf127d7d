package definition_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider"
)

var key = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func rsaKey() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key())}))
}

func certificateOf(t *testing.T, of *rsa.PrivateKey) string {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "acme"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, of.Public(), of)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestACertificateMustBeOfTheKey(t *testing.T) {
	p := parsed(t,
		change{"/fields/client_secret", nil}, change{"/fields/private_key", object{}}, change{"/fields/certificate", object{}},
		change{"/auth", "private_key_jwt"}, change{"/assertion", object{"headers": object{"x5t#S256": "{certificate|x5t_s256}"}}},
	)
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	fields := object{"account": "a", "client_id": "c", "private_key": rsaKey()}
	open(t, p, nil, with(fields, "certificate", certificateOf(t, key())))
	assert.Contains(t, refused(t, p, with(fields, "certificate", certificateOf(t, other))), "certificate: ")
	assert.Contains(t, refused(t, p, with(fields, "certificate", "acme.pem")), "certificate: ")
	assert.Contains(t, refused(t, p, with(fields, "private_key", "@key.pem")), "private_key: ")
}

func TestASharedSecretSignsInItsEncoding(t *testing.T) {
	secret := []byte("\x00\xffshared secret of 32 bytes!!!!\xfe")
	for encoding, text := range map[string]string{
		"hex": hex.EncodeToString(secret), "base64": base64.StdEncoding.EncodeToString(secret), "": "plain-secret",
	} {
		signing := object{"key": "api_key", "algorithms": []string{"HS256"}, "claims": object{"iss": "{account}"}}
		if encoding != "" {
			signing["key_encoding"] = encoding
		}
		p := parsed(t,
			change{"/fields/client_secret", nil}, change{"/fields/client_id", nil}, change{"/fields/scope", nil}, change{"/fields/api_key", object{}},
			change{"/auth", nil}, change{"/assertion", signing}, change{"/grants/0/request", object{"form": object{"jwt": "{assertion}"}}},
		)
		v := &vendor{answers: []answer{ok(`{"access_token":"t","expires_in":60}`)}}
		exchanged(t, open(t, p, v, object{"account": "a", "api_key": text}), provider.Grant{})
		_, body, _ := strings.Cut(v.requests[0], "/token ")
		form, err := url.ParseQuery(body)
		require.NoError(t, err)
		_, err = jwt.Parse(form.Get("jwt"), func(*jwt.Token) (any, error) {
			if encoding == "" {
				return []byte(text), nil
			}
			return secret, nil
		}, jwt.WithValidMethods([]string{"HS256"}))
		require.NoError(t, err, encoding)
		if encoding != "" {
			message := refused(t, p, object{"account": "a", "api_key": "n0t-encoded"})
			assert.Contains(t, message, "api_key: is not "+encoding)
			assert.NotContains(t, message, "n0t-encoded", "guarantee 6")
		}
	}
}

func TestASelfSignedTokenExpiresAsItStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signing := object{"claims": object{"iss": "{client_id}"}, "lifetime": "59m"}
		changes := []change{
			{"/fields/client_secret", nil}, {"/fields/private_key", object{}}, {"/fields/scope", nil}, {"/fields/account", nil}, {"/token_url", nil},
			{"/auth", nil}, {"/assertion", signing}, {"/grants/0/request", nil}, {"/grants/0/token", "{assertion}"},
		}
		fields := object{"client_id": "c", "private_key": rsaKey()}
		c := open(t, parsed(t, changes...), nil, fields)
		answer := exchanged(t, c, provider.Grant{})
		token, err := answer.Token(provider.TTL{}, provider.Token{})
		require.NoError(t, err)
		claims := jwt.MapClaims{}
		_, err = jwt.ParseWithClaims(token.AccessToken, claims, func(*jwt.Token) (any, error) { return key().Public(), nil })
		require.NoError(t, err)
		exp, err := claims.GetExpirationTime()
		require.NoError(t, err)
		assert.False(t, token.ExpireTime.After(exp.Time), "guarantee 1")
		assert.WithinDuration(t, exp.Time, token.ExpireTime, 3*time.Second)
		assert.WithinDuration(t, exp.Time, time.Now().Add(59*time.Minute), 5*time.Second)
		assert.Empty(t, c.Destinations().URLs, "nothing is sent")

		_, err = c.Narrow([]string{"a"})
		require.ErrorContains(t, err, "scope: ")
		require.ErrorContains(t, c.(provider.Revoker).Revocable(t.Context()), "no vendor revokes a token that the engine signs itself")

		endless := append(slices.Clip(changes), change{"/token/default_ttl", "10m"})
		text := strings.Replace(string(changed(t, endless...)), `"claims":{`, `"claims":{"exp":null,`, 1)
		answer = exchanged(t, open(t, parsedText(t, text), nil, fields), provider.Grant{})
		token, err = answer.Token(provider.TTL{}, provider.Token{})
		require.NoError(t, err)
		assert.Equal(t, token.IssueTime.Add(10*time.Minute), token.ExpireTime, "without exp, default_ttl counts")
	})
}

func TestARefreshTokenOfAPasswordIsUsedUntilItIsRejected(t *testing.T) {
	p := parsed(t,
		change{"/fields/username", object{}}, change{"/fields/password", object{}},
		change{"/grants/0", object{
			"grant_type": "password", "needs": []string{"username", "password"},
			"request": object{"form": object{"grant_type": "password", "username": "{username}", "password": "{password}", "scope": "{scope}"}},
			"refresh": object{"form": object{"grant_type": "refresh_token", "refresh_token": "{refresh_token}"}},
		}},
	)
	v := &vendor{answers: []answer{
		ok(`{"access_token":"t1","expires_in":60,"refresh_token":"r1"}`),
		ok(`{"access_token":"t2","expires_in":60,"refresh_token":"r2"}`),
		{status: 400, body: `{"error":"invalid_grant"}`},
		ok(`{"access_token":"t3","expires_in":60,"refresh_token":"r3"}`),
	}}
	c := open(t, p, v, with(acme, "username", "u", "password", "p"))
	first := exchanged(t, c, provider.Grant{})
	assert.Equal(t, provider.Grant{RefreshToken: "r1", Derived: true}, *first.Grant)
	second := exchanged(t, c, *first.Grant)
	assert.Equal(t, "r2", second.Grant.RefreshToken)
	_, err := c.Exchange(t.Context(), *second.Grant)
	var rejected *provider.Error
	require.ErrorAs(t, err, &rejected)
	assert.Equal(t, provider.Rejected, rejected.Kind)
	fallback := c.(provider.Fallback).Fallback(*second.Grant)
	require.NotNil(t, fallback, "the password is tried again")
	assert.Nil(t, c.(provider.Fallback).Fallback(provider.Grant{}), "not without a refresh token")
	exchanged(t, fallback, *second.Grant)
	bodies := []string{"grant_type=password", "refresh_token=r1", "refresh_token=r2", "grant_type=password"}
	require.Len(t, v.requests, len(bodies))
	for i, body := range bodies {
		assert.Contains(t, v.requests[i], body)
	}
}
