package credential

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/storage"
)

// SaveRotations stores the secrets that vendors have issued and that storage has not accepted yet, before the engine
// stops.
func (st *Store) SaveRotations(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, saveTimeout)
	defer cancel()
	st.unsavedRotations.saveAll(ctx)
}

const (
	// concurrentRotations is how many credentials are rotated at a time in the background.
	concurrentRotations = 4

	// rotationLock bounds how long a rotation in the background waits for another change of the same name.
	rotationLock = 10 * time.Second

	// rotationSweep bounds how long a sweep waits for the rotations that it has begun. They go on after it.
	rotationSweep = 10 * time.Second
)

// SweepRotations takes the steps of rotations that are due. What it cannot begin in time is left to the next sweep. Its
// error joins those of storage.
func (st *Store) SweepRotations(ctx context.Context, s logical.Storage) error {
	ctx, cancel := context.WithTimeout(ctx, rotationSweep)
	defer cancel()
	st.reloadUncertain(ctx, s)
	var running sync.WaitGroup
	failures := make(chan error, 1)
	all := make(chan error, 1)
	go func() {
		var joined error
		for err := range failures {
			joined = errors.Join(joined, err)
		}
		all <- joined
	}()
	tasks, err := st.dueRotations(ctx, s)
	if err != nil {
		failures <- err
	}
	background := context.WithoutCancel(ctx)
	for _, task := range tasks {
		if _, isRunning := st.rotations.LoadOrStore(task.path, true); isRunning { // since an earlier sweep
			continue
		}
		if !takeSlot(ctx, st.rotationSlots) {
			st.rotations.Delete(task.path)
			break
		}
		running.Add(1)
		go func() {
			defer running.Done()
			defer func() { <-st.rotationSlots }()
			defer st.rotations.Delete(task.path)
			defer st.containRotation(task.path)
			ctx, cancel := context.WithTimeout(background, rotationLock)
			defer cancel()
			err := task.run(ctx)
			switch {
			case storage.IsError(err):
				failures <- err
			case err != nil && !errors.Is(err, broker.ErrBusy) && !errors.Is(err, broker.ErrClosed):
				st.Logger().Warn("a rotation cannot begin", "path", task.path, "error", err)
			}
		}()
	}
	done := make(chan struct{})
	go func() { running.Wait(); close(failures); close(done) }()
	select {
	case <-done:
		return <-all
	case <-ctx.Done():
		return nil
	}
}

// reloadUncertain makes the next requests load the credentials again of which a rotation could not be stored, once
// storage answers. Until then, readers get their tokens from memory.
func (st *Store) reloadUncertain(ctx context.Context, s logical.Storage) {
	st.uncertain.Range(func(name, of any) bool {
		if _, err := storage.Exists(ctx, s, of.(*storedCredential).storageKey()); err != nil {
			return false
		}
		st.uncertain.Delete(name)
		st.broker.Unload(name.(string))
		return true
	})
}

// A rotationTask is a rotation that has something to do.
type rotationTask struct {
	path string
	run  func(context.Context) error
}

// dueRotations returns the rotations that have something to do.
func (st *Store) dueRotations(ctx context.Context, s logical.Storage) ([]rotationTask, error) {
	now := time.Now()
	var tasks []rotationTask
	for due := range st.broker.RotationsDue(now) {
		tasks = append(tasks, rotationTask{apipath.Credential(due.Vendor, due.Name), func(ctx context.Context) error {
			return st.rotateDueCredential(ctx, s, due.Vendor, due.Name)
		}})
	}
	clients, err := st.dueClients(ctx, s, now)
	for _, name := range clients {
		tasks = append(tasks, rotationTask{apipath.Client(name), func(ctx context.Context) error { return st.rotateDueClient(ctx, s, name) }})
	}
	return tasks, err
}

// takeSlot waits until another rotation may begin.
func takeSlot(ctx context.Context, slots chan struct{}) bool {
	select {
	case slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// containRotation logs a panic in a rotation, so that it does not end the process.
func (st *Store) containRotation(path string) {
	if recovered := recover(); recovered != nil {
		_ = broker.Panicked(st.Logger().With("path", path), recovered)
	}
}
