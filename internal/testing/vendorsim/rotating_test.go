package vendorsim_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/provider"
	"vault-plugin-secrets-tokenbroker/provider/catalogue"
)

// A stored is an account of a vendor as the engine stores it.
type stored struct {
	t          *testing.T
	sim        *vendorsim.Sim
	kind, name string
	vendor     string
	fields     map[string]any
}

func newStored(t *testing.T, sim *vendorsim.Sim, kind, name string) *stored {
	t.Helper()
	s := &stored{t: t, sim: sim, kind: kind, name: name}
	s.vendor, s.fields = sim.AddRotating(kind, name)
	return s
}

func (s *stored) open() provider.Credential {
	s.t.Helper()
	raw, err := json.Marshal(s.fields)
	require.NoError(s.t, err)
	client, err := provider.NewClient(provider.ClientOptions{Transport: s.sim.Transport(), Timeout: time.Minute})
	require.NoError(s.t, err)
	credential, err := catalogue.Lookup(s.vendor).Open(provider.Settings{Fields: raw, WriteTime: time.Now(), Client: client})
	require.NoError(s.t, err)
	return credential
}

func (s *stored) rotation() provider.Rotation {
	s.t.Helper()
	rotation, err := provider.RotationOf(s.open())
	require.NoError(s.t, err)
	return rotation
}

// prove makes sure that the vendor accepts the secret, as the engine does.
func (s *stored) prove() error {
	s.t.Helper()
	if rotation := s.rotation(); rotation.Rules().ProvesItself {
		return rotation.Prove(s.t.Context())
	}
	_, err := s.open().Exchange(s.t.Context(), provider.Grant{})
	return err
}

// newSecret prepares a new secret.
func (s *stored) newSecret() provider.NewSecret {
	s.t.Helper()
	n := provider.NewSecret{Name: "vault-" + strings.ToLower(s.t.Name()[:4]) + time.Now().Format("150405"), ExpireTime: time.Now().Add(90 * 24 * time.Hour).Truncate(time.Second)}
	require.NoError(s.t, s.rotation().Prepare(s.t.Context(), &n))
	return n
}

// with returns the credential with other fields.
func (s *stored) with(fields map[string]any) *stored {
	next := *s
	next.fields = maps.Clone(s.fields)
	delete(next.fields, "expires")
	maps.Copy(next.fields, fields)
	delete(next.fields, "expires") // a common field, which no vendor has
	return &next
}

// former returns the fields that a rotation has replaced.
func (s *stored) former() map[string]any {
	former := map[string]any{}
	for _, name := range s.rotation().Rules().Replaces {
		if value := s.fields[name]; value != nil {
			former[name] = value
		}
	}
	return former
}

func (s *stored) isAccepted() bool { return s.sim.AcceptsSecret(s.kind, s.name, s.fields) }

func (s *stored) live() int { return len(s.sim.LiveSecrets(s.kind, s.name)) }

// endsTokens are the kinds whose tokens end with the secret that they are of.
var endsTokens = []string{"snowflake"}

// A rotation by the definition of each vendor replaces a secret, and the vendor finds nothing wrong with its requests.
func TestTheSecretOfEachKindIsReplaced(t *testing.T) {
	for _, kind := range vendorsim.RotatingKinds() {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim := vendorsim.New()
				present := newStored(t, sim, kind, "prod")
				other := newStored(t, sim, kind, "other")
				each := present.live()
				var secrets []string
				for range 3 { // the third finds the slot of the first
					require.NoError(t, present.prove())
					answer, err := present.open().Exchange(t.Context(), provider.Grant{})
					require.NoError(t, err)
					require.True(t, sim.Accepts(answer.AccessToken))
					rotation := present.rotation()
					fields, err := rotation.Create(t.Context(), present.newSecret())
					require.NoError(t, err)
					next := present.with(fields)
					require.NotEqual(t, present.fields, next.fields)
					require.True(t, next.isAccepted())
					require.NoError(t, next.prove())
					assert.Equal(t, !rotation.Rules().EndsFormer, present.isAccepted())
					time.Sleep(time.Minute)
					require.NoError(t, next.rotation().Remove(t.Context(), present.former()))
					assert.False(t, present.isAccepted())
					require.Error(t, present.prove())
					require.NoError(t, next.rotation().Remove(t.Context(), present.former()), "one that is removed already")
					require.True(t, next.isAccepted())
					assert.Equal(t, each, next.live())
					assert.Len(t, sim.StoredSecrets(kind, "prod"), each)
					assert.Equal(t, !slices.Contains(endsTokens, kind), sim.Accepts(answer.AccessToken))
					for name := range next.former() {
						if text, isText := fields[name].(string); isText && !strings.Contains(text, "PRIVATE KEY") && strings.HasSuffix(name, "secret") {
							secrets = append(secrets, text)
						}
					}
					present = next
				}
				assert.Subset(t, sim.Secrets(), secrets)
				require.NoError(t, other.prove(), "another account keeps its secret")
				assert.Equal(t, each, other.live())
				assert.Empty(t, sim.Violations())
			})
		})
	}
}

// isWrite reports whether a request changes something at a vendor.
func isWrite(r *http.Request) bool {
	return r.Method != http.MethodGet && r.Header.Get("Content-Type") != "application/x-www-form-urlencoded"
}

// What the vendor has done without that its answer arrived is found and removed, whichever request it was.
func TestWhatALostAnswerLeavesIsRemoved(t *testing.T) {
	for _, kind := range vendorsim.RotatingKinds() {
		t.Run(kind, func(t *testing.T) {
			for lost := 1; ; lost++ {
				isDone := false
				synctest.Test(t, func(t *testing.T) { isDone = loseAnswer(t, kind, lost) })
				if isDone {
					assert.Greater(t, lost, 1)
					return
				}
			}
		})
	}
}

// loseAnswer loses one answer of a rotation, and recovers. It reports whether no answer was lost, as there are less.
func loseAnswer(t *testing.T, kind string, lost int) (isDone bool) {
	sim := vendorsim.New()
	present := newStored(t, sim, kind, "prod")
	before := sim.StoredSecrets(kind, "prod")
	n := present.newSecret()
	writes := 0
	sim.Behave(vendorsim.Conduct{LostAnswers: func(r *http.Request) bool {
		if isWrite(r) {
			writes++
		}
		return writes == lost && isWrite(r)
	}})
	_, err := present.rotation().Create(t.Context(), n)
	if writes < lost {
		require.NoError(t, err)
		return true
	}
	require.Error(t, err)
	sim.Behave(vendorsim.Conduct{})
	time.Sleep(time.Minute)
	rotation := present.rotation()
	switch rules := rotation.Rules(); {
	case rules.IsRepeatable:
		fields, err := rotation.Expected(n)
		require.NoError(t, err)
		if !rules.EndsFormer {
			again, err := rotation.Create(t.Context(), n)
			require.NoError(t, err)
			assert.Equal(t, fields, again)
			assert.Equal(t, 2, present.live(), "not a third")
		}
		assert.True(t, present.with(fields).isAccepted())
	case rules.EndsFormer:
		assert.False(t, present.isAccepted())
		require.Error(t, present.prove())
	default:
		require.NoError(t, rotation.Discard(t.Context(), n))
		assert.Equal(t, before, sim.StoredSecrets(kind, "prod"))
		require.NoError(t, present.prove())
	}
	assert.Empty(t, sim.Violations())
	return false
}
