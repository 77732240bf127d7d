package broker

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// faulty is of a vendor whose rules the engine cannot read without a panic.
type faulty struct{ prompt }

func (faulty) MaxIdle() time.Duration { panic("a fault") }

func TestGuarantee15ANameWhoseRulesPanicKeepsNoOtherFromBeingRenewed(t *testing.T) {
	storage := &logical.InmemStorage{}
	b := New(crowd{names: []string{"a2", "b2"}}, nobody{})
	require.NoError(t, b.Sweep(t.Context(), storage))
	e := b.addStored("a2")
	_, err := e.update(e.get().epoch, func(snap *snapshot) {
		c := *snap.credential
		c.Vendor = faulty{}
		snap.credential = &c
	})
	require.NoError(t, err)
	due := b.dueTasks(time.Now().Add(25 * time.Hour))
	require.Len(t, due, 1)
	assert.Equal(t, "b2", due[0].tasks[0].entry.name)
	assert.Equal(t, unusable, e.get().presence)
}

func TestGuarantee15WhatRolesLeaveInMemoryIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(crowd{names: []string{"a1"}}, nobody{})
		storage := &logical.InmemStorage{}
		require.NoError(t, b.Sweep(t.Context(), storage))
		e, now := b.addStored("a1"), time.Now()
		for i := range 100 {
			role := fmt.Sprint("role", i)
			_, err := e.update(e.get().epoch, func(snap *snapshot) {
				snap.early = with(snap.early, role, now.Add(time.Minute))
				snap.dedicated = with(snap.dedicated, role, Failure{Time: now, Count: 1, NextAttempt: now.Add(time.Minute)})
			})
			require.NoError(t, err)
			e.uses[role] = use{lastRead: now}
		}
		e.uses["in use"] = use{inUse: true, lastRead: now}
		counts := func() []int { return []int{len(e.current.early), len(e.current.dedicated), len(e.uses)} }
		require.NoError(t, b.Sweep(t.Context(), storage))
		assert.Equal(t, []int{100, 100, 101}, counts())
		time.Sleep(time.Hour)
		require.NoError(t, b.Sweep(t.Context(), storage))
		assert.Equal(t, []int{0, 0, 1}, counts())
	})
}
