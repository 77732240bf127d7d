package faults_test

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

// The parts of a dump's entries that the vendors need to accept its credentials.
type (
	knownToken struct {
		AccessToken string    `json:"access_token"`
		IssueTime   time.Time `json:"issue_time"`
		ExpireTime  time.Time `json:"expire_time"`
	}
	knownHealth struct {
		Generation string `json:"generation"`
		Grant      struct {
			RefreshToken string `json:"refresh_token"`
		} `json:"grant"`
		Exchanges int `json:"exchanges"`
		Failure   struct {
			Count int `json:"count"`
		} `json:"failure"`
	}
	knownState struct {
		knownHealth
		Tokens map[string]knownToken `json:"tokens"`
	}
	knownEntry struct {
		knownHealth
		Number int        `json:"number"`
		Token  knownToken `json:"token"`
	}
	knownConfig struct {
		Generation string         `json:"generation"`
		Fields     map[string]any `json:"fields"`
		Verified   knownState     `json:"verified"`
	}
	knownPair struct {
		KeyID      string `json:"key_id"`
		PrivateKey string `json:"private_key"`
	}
	knownKeypair struct {
		Active    knownPair  `json:"active"`
		Pending   *knownPair `json:"pending"`
		Activated map[string]struct {
			Entry knownConfig `json:"entry"`
		} `json:"activated"`
	}
)

func decode[T any](t *testing.T, raw []byte) (value T) {
	t.Helper()
	require.NoError(t, json.Unmarshal(raw, &value))
	return value
}

func publicHalf(t *testing.T, private string) *rsa.PublicKey {
	t.Helper()
	block, _ := pem.Decode([]byte(private))
	require.NotNil(t, block)
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return &key.PublicKey
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	require.NoError(t, err)
	return &key.(*rsa.PrivateKey).PublicKey
}

// loadedMount is a mount with the storage of a dump.
type loadedMount struct {
	*fullMount
	dump storageDump
}

// load mounts an engine on a dump. Its vendors accept the dump's current credentials and nothing
// else.
func load(t *testing.T, dump storageDump) *loadedMount {
	t.Helper()
	l := &loadedMount{fullMount: newFullMount(t), dump: dump}
	l.idp.count = 1000 // its tokens must differ from those in the dump
	time.Sleep(time.Until(l.dump.Time))
	for key, raw := range l.dump.Entries {
		require.NoError(t, l.storage.Put(t.Context(), &logical.StorageEntry{Key: key, Value: raw}))
	}
	l.sim.AddAPIKey(engine.APIKey)
	for vendor, name := range l.credentials() {
		config, state := l.known(vendor, name)
		text := func(field string) string { value, _ := config.Fields[field].(string); return value }
		refresh := text("refresh_token")
		if state.Grant.RefreshToken != "" {
			refresh = state.Grant.RefreshToken
		}
		switch vendor {
		case "oauth2":
			l.idp.refresh[refresh] = true
		case "sitecore":
			l.sim.AddPair(refresh, 12*time.Hour, 7*24*time.Hour)
		case "kensho":
			l.sim.AddRefreshToken("link-streaming", refresh)
			private := text("private_key")
			if raw, is := l.dump.Entries["keypair/"+name]; is {
				private = decode[knownKeypair](t, raw).Active.PrivateKey
			}
			if private != "" && name != "failing" {
				l.sim.AddClient(text("client_id"), publicHalf(t, private), "")
			}
		}
	}
	l.start()
	return l
}

// credentials yields the vendor and name of each credential in the dump.
func (l *loadedMount) credentials() func(yield func(vendor, name string) bool) {
	return func(yield func(vendor, name string) bool) {
		for _, key := range slices.Sorted(maps.Keys(l.dump.Entries)) {
			if parts := strings.Split(key, "/"); parts[0] == "config" && !yield(parts[1], parts[2]) {
				return
			}
		}
	}
}

// known returns a credential and its state in the dump, after a completed activation.
func (l *loadedMount) known(vendor, name string) (knownConfig, knownState) {
	config := decode[knownConfig](l.t, l.dump.Entries["config/"+vendor+"/"+name])
	if raw, is := l.dump.Entries["keypair/"+name]; is {
		if activated, is := decode[knownKeypair](l.t, raw).Activated[name]; is {
			config = activated.Entry
		}
	}
	// The entry with the highest number has the latest failure.
	state, latest := config.Verified, 0
	for key, raw := range l.dump.Entries {
		entry := decode[knownEntry](l.t, raw)
		if !strings.HasPrefix(key, "state/"+name+"/") || entry.Generation != config.Generation {
			continue
		}
		if entry.Number > latest {
			latest, state.Exchanges, state.Failure = entry.Number, entry.Exchanges, entry.Failure
		}
		switch path.Base(key) {
		case "grant":
			state.Grant = entry.Grant
		case "own":
			state.Tokens = map[string]knownToken{}
			if entry.Token.AccessToken != "" {
				state.Tokens[""] = entry.Token
			}
		}
	}
	return config, state
}

// mustSucceed sends a request, and fails the test unless it succeeds.
func (l *loadedMount) mustSucceed(op logical.Operation, path string) {
	l.t.Helper()
	resp := l.ask(op, path, nil)
	require.NotNil(l.t, resp, "%s %s", op, path)
}
