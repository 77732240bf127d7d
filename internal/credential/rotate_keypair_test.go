package credential

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/provider"
)

func TestEachRotationOfAKeyPairIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reports []RotationReport
		st, _ := New(Options{
			BuiltIn: func(string) provider.Provider { return nil },
			Logger:  hclog.NewNullLogger,
			Rotated: func(r RotationReport) { reports = append(reports, r) },
		}, nil)
		defer st.Close()
		s := &logical.InmemStorage{}
		_, err := st.WriteKeypair(t.Context(), s, "prod", KeypairRequest{KeyType: "ec-p256", Publication: PublicationRequest{
			Publish: new(true), RotationPeriod: new(time.Hour), PublishAhead: new(10 * time.Minute),
		}})
		require.NoError(t, err)
		pass := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Minute) {
				require.NoError(t, st.SweepKeypairs(t.Context(), s))
			}
		}
		pass(61 * time.Minute)
		assert.Equal(t, []RotationReport{{Path: "keypair/prod", Name: "prod"}}, reports)
		state := st.KeypairRotation(t.Context(), s, "prod")
		assert.Equal(t, time.Hour, state.NextRotation.Sub(state.LastRotation))
		assert.Zero(t, state.Failures)

		// A credential whose vendor is gone could use the key pair.
		entry, err := logical.StorageEntryJSON("config/gone/prod", map[string]any{"version": 1, "generation": "a", "fields": map[string]any{"private_key_source": "generated"}})
		require.NoError(t, err)
		require.NoError(t, s.Put(context.Background(), entry))
		require.NoError(t, st.inUse.add(t.Context(), s, "gone"))
		reports = nil
		pass(time.Hour)
		require.Len(t, reports, 1)
		require.Error(t, reports[0].Err)
		assert.Equal(t, 1, reports[0].Failures)
		state = st.KeypairRotation(t.Context(), s, "prod")
		assert.Equal(t, 1, state.Failures)
		assert.Equal(t, reports[0].Err.Error(), state.LastError)
		pass(2 * time.Minute)
		require.Len(t, reports, 2)
		assert.Equal(t, 2, reports[1].Failures)
	})
}
