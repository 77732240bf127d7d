package broker

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// panickingVendor is a vendor whose rules panic.
type panickingVendor struct{ instantVendor }

func (panickingVendor) MaxIdle() time.Duration { panic("broken") }

func TestGuarantee15PanicForOneNameDoesNotPreventRenewalOfOthers(t *testing.T) {
	storage := &logical.InmemStorage{}
	b := New(manyCredentials{names: []string{"a2", "b2"}}, ignoreExchanges{})
	for _, name := range []string{"a2", "b2"} {
		_, err := b.Read(t.Context(), storage, name, ReadRequest{})
		require.NoError(t, err)
		b.cached(name).age()
	}
	r := b.cached("a2")
	_, err := r.update(r.get().epoch, func(snap *snapshot) {
		c := *snap.credential
		c.Vendor = panickingVendor{}
		snap.credential = &c
	})
	require.NoError(t, err)
	due, err := b.dueTasks(t.Context(), storage)
	require.NoError(t, err)
	require.Len(t, due, 1)
	assert.Equal(t, "b2", due[0].tasks[0].record.name)
	assert.Equal(t, unusable, r.get().presence)
}

// brokenCredential is a Source whose credentials trigger a panic when they are read.
type brokenCredential struct{ manyCredentials }

func (brokenCredential) Credential(context.Context, logical.Storage, string) (*Credential, error) {
	panic("broken")
}

func TestGuarantee15APanicAtOneStatusIsAnError(t *testing.T) {
	b := New(brokenCredential{manyCredentials{names: []string{"a1"}}}, ignoreExchanges{})
	_, err := b.ReadStatus(t.Context(), &logical.InmemStorage{}, "a1")
	require.ErrorIs(t, err, ErrPanicked)
}

func TestGuarantee15DataOfUnreadRolesIsRemovedFromMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(manyCredentials{names: []string{"a1"}}, ignoreExchanges{})
		storage := &logical.InmemStorage{}
		_, err := b.Read(t.Context(), storage, "a1", ReadRequest{})
		require.NoError(t, err)
		r, now := b.cached("a1"), time.Now()
		for i := range 100 {
			role := fmt.Sprint("role", i)
			_, err := r.update(r.get().epoch, func(snap *snapshot) {
				snap.early = withKey(snap.early, role, now.Add(time.Minute))
				snap.roleFailures = withKey(snap.roleFailures, role, Failure{Time: now, Count: 1, NextAttempt: now.Add(time.Minute)})
			})
			require.NoError(t, err)
			r.uses[role] = use{lastRead: now}
		}
		delete(r.uses, ownScope)
		r.uses["in use"] = use{inUse: true, lastRead: now}
		counts := func() []int { return []int{len(r.current.early), len(r.current.roleFailures), len(r.uses)} }
		require.NoError(t, b.Sweep(t.Context(), storage))
		assert.Equal(t, []int{100, 100, 101}, counts())
		time.Sleep(time.Hour)
		require.NoError(t, b.Sweep(t.Context(), storage))
		assert.Equal(t, []int{0, 0, 1}, counts())
	})
}
