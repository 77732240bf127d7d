package exchange

import (
	"vault-plugin-secrets-tokenbroker/provider"
)

// A KeyKind is what a rotation generates of a key.
type KeyKind string

// The kinds.
const (
	NoKey       KeyKind = ""
	PrivateKey  KeyKind = "private_key"
	Certificate KeyKind = "certificate" // a private key, and a self-signed certificate of it
)

// choose generates a key of the kind of the current one, in PEM.
func (k KeyKind) choose(chosen map[string]string, current string, n provider.NewSecret) error {
	if k == NoKey {
		return nil
	}
	key, err := provider.GenerateKeyLike(current)
	if err != nil {
		return err
	}
	chosen[provider.ChosenPrivateKey] = key
	if k == Certificate {
		chosen["new_certificate"], err = provider.SelfSigned(key, n.Name, n.ExpireTime)
	}
	return err
}

// addPublic adds the public half of a chosen key.
func addPublic(values Values, chosen map[string]string) error {
	if chosen[provider.ChosenPrivateKey] == "" {
		return nil
	}
	public, err := provider.PublicHalf(chosen[provider.ChosenPrivateKey])
	if err != nil {
		return err
	}
	values["new_public_key"], values["new_public_der"] = public.PEM, public.DER
	values["new_jwk"], values["new_key_id"] = public.JWK, public.Thumbprint
	if certificate := chosen["new_certificate"]; certificate != "" {
		values["new_certificate_der"], err = provider.CertificateDER(certificate)
	}
	return err
}
