package rotation_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/engine"
)

// newDue returns an engine with credentials app0, app1, … at a host that takes a request a second, and an account
// whose rotation is due.
func newDue(t *testing.T, apps int) (*engine.Engine, account) {
	t.Helper()
	e := engine.New(t)
	for i := range apps {
		vendor, fields := e.Sim.AddRotating(entra, fmt.Sprint(i))
		fields["verify"] = false
		e.Write(fmt.Sprintf("config/%s/app%d", vendor, i), fields)
	}
	a := newAccount(e, entra, map[string]any{"rotation_period": "30d"})
	e.Pass(30*day - time.Minute)
	e.Write("hosts/login.microsoftonline.com", map[string]any{"requests_per_second": 1})
	time.Sleep(2 * time.Minute)
	return e, a
}

func TestGuarantee8ADropWaitsForNoRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, a := newDue(t, 28)
		e.Write("refresh/app27", nil)
		var all sync.WaitGroup
		for i := range 22 {
			all.Go(func() { e.Request(logical.ReadOperation, fmt.Sprint("creds/app", i), nil) })
		}
		synctest.Wait()
		all.Go(func() { _ = e.Tick() })
		synctest.Wait()
		began := time.Now()
		e.Write("refresh/"+a.name, map[string]any{"drop": true})
		assert.Less(t, time.Since(began), time.Second)
		all.Wait()
	})
}

func TestGuarantee16ARotationThatIsNotSentIsNotAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, a := newDue(t, 60)
		e.Write("refresh/app59", nil)
		var all sync.WaitGroup
		for i := range 31 {
			all.Go(func() { e.Request(logical.ReadOperation, fmt.Sprint("creds/app", i), nil) })
		}
		synctest.Wait()
		require.NoError(t, e.Tick())
		all.Wait()
		rotation := e.Read("status/" + a.name).Data["rotation"].(map[string]any)
		assert.NotContains(t, rotation, "last_vault_rotation")
		assert.NotContains(t, rotation, "consecutive_failures")
		time.Sleep(time.Minute)
		require.NoError(t, e.Tick())
		assert.Contains(t, e.Read("status/" + a.name).Data["rotation"], "last_vault_rotation")
	})
}
