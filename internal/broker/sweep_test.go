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
	e := b.stored("a2")
	_, err := e.change(e.look().epoch, func(m *memory) {
		c := *m.credential
		c.Vendor = faulty{}
		m.credential = &c
	})
	require.NoError(t, err)
	due := b.due(time.Now().Add(25 * time.Hour))
	require.Len(t, due, 1)
	assert.Equal(t, "b2", due[0].tasks[0].entry.name)
	assert.True(t, e.look().unusable)
}

func TestGuarantee15WhatRolesLeaveInMemoryIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(crowd{names: []string{"a1"}}, nobody{})
		storage := &logical.InmemStorage{}
		require.NoError(t, b.Sweep(t.Context(), storage))
		e, now := b.stored("a1"), time.Now()
		for i := range 100 {
			role := fmt.Sprint("role", i)
			_, err := e.change(e.look().epoch, func(m *memory) {
				m.early = with(m.early, role, now.Add(time.Minute))
				m.dedicated = with(m.dedicated, role, Failure{Time: now, Count: 1, NextAttempt: now.Add(time.Minute)})
			})
			require.NoError(t, err)
			e.uses[role] = use{last: now}
		}
		e.uses["wanted"] = use{wanted: true, last: now}
		counts := func() []int { return []int{len(e.memory.early), len(e.memory.dedicated), len(e.uses)} }
		require.NoError(t, b.Sweep(t.Context(), storage))
		assert.Equal(t, []int{100, 100, 101}, counts())
		time.Sleep(time.Hour)
		require.NoError(t, b.Sweep(t.Context(), storage))
		assert.Equal(t, []int{0, 0, 1}, counts())
	})
}
