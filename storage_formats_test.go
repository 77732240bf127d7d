package tokenbroker_test

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/broker"
)

// dumps are the files of testdata/storage, the oldest format first.
func dumps(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/storage/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	return files
}

func readDump(t *testing.T, file string) storageDump {
	t.Helper()
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	var dump storageDump
	require.NoError(t, json.Unmarshal(raw, &dump))
	return dump
}

// checkShape compares a dump of today with the last one in testdata.
func checkShape(t *testing.T, today storageDump) {
	t.Helper()
	files := dumps(t)
	last := files[len(files)-1]
	was, is := shapeOf(t, readDump(t, last)), shapeOf(t, today)
	without := func(shape, other []string) []string {
		return slices.DeleteFunc(slices.Clone(shape), func(field string) bool { return slices.Contains(other, field) })
	}
	if gone, added := without(was, is), without(is, was); len(gone)+len(added) > 0 {
		t.Errorf(`what is stored has another form than %s: gone is %q, and new is %q.
Add a dump of it, which the engines to come must read:
    go test -run TestTheFormatOfStorage . -args -write-storage=NN-what-changed
and raise broker.FormatVersion if an engine of before would misread it, or lose it by writing the entry again`, last, gone, added)
	}
}

// ofOneToken is what in the key of a dedicated token is its own, or its role's of the time.
var ofOneToken = regexp.MustCompile(`[0-9a-f-]{36}/[0-9]+-[0-9a-f]{64}`)

// shapeOf is which fields there are in which entries, and of what type, sorted.
func shapeOf(t *testing.T, dump storageDump) []string {
	t.Helper()
	shape := map[string]bool{}
	var walk func(where string, value any)
	walk = func(where string, value any) {
		switch value := value.(type) {
		case map[string]any:
			for name, field := range value {
				walk(where+"."+name, field)
			}
		case []any:
			for _, element := range value {
				walk(where+"[]", element)
			}
		default:
			shape[fmt.Sprintf("%s: %T", where, value)] = true
		}
	}
	for key, raw := range dump.Entries {
		var entry any
		require.NoError(t, json.Unmarshal(raw, &entry))
		walk(ofOneToken.ReplaceAllString(key, "LEASES/TIME-HASH"), entry)
	}
	return slices.Sorted(maps.Keys(shape))
}

// What there is to know of a credential in a dump.
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
		Void   int        `json:"void"`
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

// loaded is an engine of today on the storage of an earlier one.
type loaded struct {
	*dumped
	dump storageDump
}

// load has the vendors know what the dump's engine would have gone on with, and nothing
// else.
func load(t *testing.T, file string, versions bool) *loaded {
	t.Helper()
	l := &loaded{dumped: newDumped(t), dump: readDump(t, file)}
	l.idp.count = 1000 // so that it issues nothing that is in the dump
	time.Sleep(time.Until(l.dump.Time))
	for key, raw := range l.dump.Entries {
		if !versions {
			fields := decode[map[string]any](t, raw)
			delete(fields, "version")
			var err error
			raw, err = json.Marshal(fields)
			require.NoError(t, err)
		}
		require.NoError(t, l.storage.Put(t.Context(), &logical.StorageEntry{Key: key, Value: raw}))
	}
	l.sim.AddAPIKey(apiKey)
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

// credentials are by provider and name.
func (l *loaded) credentials() func(yield func(vendor, name string) bool) {
	return func(yield func(vendor, name string) bool) {
		for _, key := range slices.Sorted(maps.Keys(l.dump.Entries)) {
			if parts := strings.Split(key, "/"); parts[0] == "config" && !yield(parts[1], parts[2]) {
				return
			}
		}
	}
}

// known is what the dump has of a credential.
func (l *loaded) known(vendor, name string) (knownConfig, knownState) {
	config := decode[knownConfig](l.t, l.dump.Entries["config/"+vendor+"/"+name])
	if raw, is := l.dump.Entries["keypair/"+name]; is {
		if activated, is := decode[knownKeypair](l.t, raw).Activated[name]; is {
			config = activated.Entry
		}
	}
	// The entry that was written last tells how the credential is doing.
	state, latest, void, own := config.Verified, 0, 0, 0
	for key, raw := range l.dump.Entries {
		entry := decode[knownEntry](l.t, raw)
		if !strings.HasPrefix(key, "state/"+name+"/") || entry.Generation != config.Generation {
			continue
		}
		if entry.Number > latest {
			latest, state.Exchanges, state.Failure = entry.Number, entry.Exchanges, entry.Failure
		}
		switch path.Base(key) {
		case "credential":
			state.Grant, void = entry.Grant, entry.Void
		case "own":
			own = entry.Number
			state.Tokens = map[string]knownToken{}
			if entry.Token.AccessToken != "" {
				state.Tokens[""] = entry.Token
			}
		}
	}
	if own < void { // it was dropped
		state.Tokens = nil
	}
	return config, state
}

func (l *loaded) calls() int { return len(l.sim.Calls()) + l.idp.count }

// must asks for what the engine must not refuse.
func (l *loaded) must(op logical.Operation, path string, data map[string]any) map[string]any {
	l.t.Helper()
	resp := l.ask(op, path, data)
	require.NotNil(l.t, resp, "%s %s", op, path)
	return resp.Data
}

// Entries of each format that there has been are read as they were meant, with and without
// their version, no secret and no field of them is lost, and the next write is of today's
// format.
func TestStorageOfEveryEarlierFormatIsReadAndUpgraded(t *testing.T) {
	for _, file := range dumps(t) {
		for _, versions := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/versions=%t", filepath.Base(file), versions), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := load(t, file, versions)
					for vendor, name := range l.credentials() {
						l.checkRead(vendor, name)
					}
					l.checkOthers()
					for vendor, name := range l.credentials() {
						l.checkGrant(name)
						l.checkWrite(vendor, name)
						l.checkGrant(name)
					}
					l.checkUpgraded()
				})
			})
		}
	}
}

// checkRead reads a credential that nobody has touched.
func (l *loaded) checkRead(vendor, name string) {
	l.t.Helper()
	config, state := l.known(vendor, name)
	calls := l.calls()
	status := l.must(logical.ReadOperation, "status/"+name, nil)
	assert.Equal(l.t, state.Exchanges, status["exchanges"], name)
	if name == "failing" {
		assert.Equal(l.t, state.Failure.Count, status["consecutive_failures"])
	}

	token := state.Tokens[""]
	if name == "failing" && len(state.Tokens) == 0 {
		assert.Nil(l.t, l.ask(logical.ReadOperation, "token/"+name, nil), "its last exchange was refused")
		assert.Equal(l.t, calls, l.calls(), "and it is not tried again yet")
		return
	}
	got := l.must(logical.ReadOperation, "token/"+name, nil)["access_token"]
	if left := time.Until(token.ExpireTime); left > token.ExpireTime.Sub(token.IssueTime)/4+time.Minute {
		assert.Equal(l.t, token.AccessToken, got, name)
		assert.Equal(l.t, calls, l.calls(), "%s: a vendor was called", name)
	}

	read := l.must(logical.ReadOperation, "config/"+vendor+"/"+name, nil)
	for field := range config.Fields {
		if _, isRead := read[field]; !isRead {
			assert.Contains(l.t, read["secrets_set"], field, name)
		}
	}
}

// checkOthers reads roles, key pairs and leases.
func (l *loaded) checkOthers() {
	l.t.Helper()
	for key, raw := range l.dump.Entries {
		kind, name, _ := strings.Cut(key, "/")
		switch kind {
		case "role":
			stored := decode[map[string]any](l.t, raw)
			read := l.must(logical.ReadOperation, "roles/"+name, nil)
			for field, value := range stored {
				if field != "version" && field != "leases" {
					assert.Equal(l.t, fmt.Sprint(value), fmt.Sprint(read[field]), "%s: %s", key, field)
				}
			}
			if name == "app" || name == "narrow" {
				l.must(logical.ReadOperation, "creds/"+name, nil)
			}
		case "keypair":
			stored, read := decode[knownKeypair](l.t, raw), l.must(logical.ReadOperation, key, nil)
			assert.Equal(l.t, stored.Active.KeyID, read["key_id"])
			if stored.Pending != nil {
				assert.Equal(l.t, stored.Pending.KeyID, read["pending_key_id"])
			}
		case "lease":
			l.idp.busy = false
			_, err := l.backend.HandleRequest(l.t.Context(), &logical.Request{
				Operation: logical.RevokeOperation, Storage: l.storage,
				Secret: &logical.Secret{InternalData: map[string]any{"secret_type": "access_token", "name": "mine", "config": "api", "lease": key}},
			})
			require.NoError(l.t, err)
			assert.Contains(l.t, l.idp.revoked, decode[map[string]any](l.t, raw)["access_token"])
		}
	}
}

// checkGrant has the vendor take what is stored.
func (l *loaded) checkGrant(name string) {
	l.t.Helper()
	if name != "failing" && name != "pasted" {
		l.must(logical.UpdateOperation, "refresh/"+name, nil)
	}
}

// checkWrite changes a field, and finds the others as they were.
func (l *loaded) checkWrite(vendor, name string) {
	l.t.Helper()
	key := "config/" + vendor + "/" + name
	config, _ := l.known(vendor, name)
	l.must(logical.UpdateOperation, key, map[string]any{"request_timeout": "30s", "max_ttl": "100h", "verify": name != "failing"})
	entry, err := l.storage.Get(l.t.Context(), key)
	require.NoError(l.t, err)
	config.Fields["request_timeout"], config.Fields["max_ttl"] = 30.0, 360000.0
	assert.Equal(l.t, config.Fields, decode[knownConfig](l.t, entry.Value).Fields, key)
}

// checkUpgraded writes what has not been written yet. A lease is written once.
func (l *loaded) checkUpgraded() {
	l.t.Helper()
	for key := range l.dump.Entries {
		kind, name, _ := strings.Cut(key, "/")
		switch kind {
		case "role":
			l.must(logical.UpdateOperation, "roles/"+name, map[string]any{"ttl": "4m"})
		case "keypair":
			l.must(logical.UpdateOperation, key, nil)
		}
	}
	for key, raw := range l.dumped.dump().Entries {
		assert.Contains(l.t, string(raw), fmt.Sprintf(`"version":%d`, broker.FormatVersion), key)
	}
}
