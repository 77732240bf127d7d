package simulation_test

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

// each is how many secrets the vendor counts for a credential.
func (a *rotated) each() int {
	if a.kind == "datadog" {
		return 2
	}
	return 1
}

// countOrphans counts secrets at the vendors that are older than two grace periods and not in use.
func (y *rotationYear) countOrphans() {
	for _, a := range y.accounts {
		old := 0
		for _, secret := range y.Sim.StoredSecrets(a.kind, a.name) {
			if time.Since(secret.Created) > 2*rotationGrace+time.Hour {
				old++
			}
		}
		// The present secret may be as old as the period.
		if old > a.each() && !y.hadOutage(a) {
			y.orphans += old - a.each()
			y.T.Errorf("%s: %s (%s): %d secrets are older than two grace periods", time.Now(), a.name, a.kind, old)
		}
	}
}

// hadOutage reports whether nothing could be removed lately.
func (y *rotationYear) hadOutage(a *rotated) bool {
	return y.excused(a, time.Now()) || time.Since(y.recovered[a.host]) < 2*time.Hour
}

// check logs and checks the results.
func (y *rotationYear) check() {
	y.Sim.Behave(vendorsim.Conduct{})
	y.mu.Lock()
	y.outages, y.storageUntil, y.isRunning = map[string]time.Time{}, time.Time{}, false
	y.mu.Unlock()
	y.Pass(3 * time.Hour)
	dump := y.Dump()
	for _, a := range y.accounts {
		var entry struct {
			Fields   map[string]any
			Rotation struct {
				LastTime time.Time `json:"last_time"`
				Pending  any
			}
		}
		require.NoError(y.T, json.Unmarshal([]byte(dump[a.path]), &entry))
		_, status, message := y.Request(logical.UpdateOperation, "refresh/"+a.name, nil)
		if status != http.StatusOK || !y.Sim.AcceptsSecret(a.kind, a.name, entry.Fields) {
			y.lost++
			y.T.Errorf("%s (%s) is lost: %s", a.name, a.kind, message)
		}
		if entry.Rotation.Pending != nil || time.Since(entry.Rotation.LastTime) > 31*day {
			y.old++
			y.T.Errorf("%s (%s): the secret is of %s", a.name, a.kind, entry.Rotation.LastTime)
		}
	}
	for _, event := range y.Events() {
		switch event.Kind {
		case "tokenbroker/credential-rotated":
			y.rotations++
		case "tokenbroker/rotation-failed":
			y.failures++
		}
	}
	y.T.Logf("%d credentials, %d rotations, %d failed attempts; %d crashes, %d lost answers, %d outages of vendors and %d of storage, %d writes of operators", len(y.accounts), y.rotations, y.failures, y.crashes, y.lostAnswers, y.outagesBegun, y.storageOutages, y.operations)
	y.T.Logf("%d reads, of which %d failed in outages\n  expired tokens served            %d\n  credentials lost                 %d\n  orphaned secrets older than 2 graces %d\n  reads that failed while the vendor was up %d", y.reads, y.failedInOutage, y.expired, y.lost, y.orphans, y.failedWrongly)
	assert.Greater(y.T, y.rotations, len(y.accounts), "rotations")
}
