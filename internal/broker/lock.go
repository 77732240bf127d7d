package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"vault-plugin-secrets-tokenbroker/internal/pacing"
)

// locks holds the locks of names: of credentials, roles and key pairs. Only the holder of a name's
// lock exchanges the credential or changes its state; revoking a lease needs no lock.
type locks struct {
	closed <-chan struct{}

	mu    sync.Mutex
	names map[string]*nameLock
}

type nameLock struct {
	// held has an element while the lock is held. It is a channel because a waiter on a mutex
	// cannot give up.
	held chan struct{}

	// turn has an element while a dedicated exchange holds the lock or is next to wait for it.
	turn chan struct{}

	// users counts the holder and the waiters. dedicatedUsers counts the dedicated exchanges among
	// them, by role. locks.mu guards both.
	users          int
	dedicatedUsers map[string]int
}

func newLocks(closed <-chan struct{}) *locks {
	return &locks{closed: closed, names: map[string]*nameLock{}}
}

// lock locks a name. The errors are ErrClosed, ErrBusy if the deadline of ctx passes, and the error
// of ctx if it is canceled.
func (l *locks) lock(ctx context.Context, name string) (unlock func(), err error) {
	n := l.join(name)
	if err := take(ctx, n.held, l.closed); err != nil {
		l.leave(name, n)
		return nil, err
	}
	return l.unlocker(name, n), nil
}

// lockClosed is lock for use after Close.
func (l *locks) lockClosed(ctx context.Context, name string) (unlock func(), err error) {
	n := l.join(name)
	if err := take(ctx, n.held, nil); err != nil {
		l.leave(name, n)
		return nil, err
	}
	return l.unlocker(name, n), nil
}

// tryLock locks a name unless its lock is held.
func (l *locks) tryLock(name string) (unlock func(), locked bool) {
	n := l.join(name)
	select {
	case n.held <- struct{}{}:
		return l.unlocker(name, n), true
	default:
		l.leave(name, n)
		return nil, false
	}
}

// inOrder returns names, without duplicates, in the order in which callers lock several of them.
// The order prevents deadlocks.
func inOrder(names []string) []string { return slices.Compact(slices.Sorted(slices.Values(names))) }

// lockAll locks several names.
func (l *locks) lockAll(ctx context.Context, names []string) (unlock func(), err error) {
	var unlocks []func()
	unlock = func() {
		for _, unlock := range unlocks {
			unlock()
		}
	}
	for _, name := range inOrder(names) {
		one, err := l.lock(ctx, name)
		if err != nil {
			unlock()
			return nil, err
		}
		unlocks = append(unlocks, one)
	}
	return unlock, nil
}

// maxDedicated is the maximum number of dedicated exchanges of one role that hold the lock of a
// name or wait for it.
const maxDedicated = 16

// ErrTooManyWaiting means that maxDedicated reads of a dedicated role already wait for the vendor.
var ErrTooManyWaiting = fmt.Errorf("%d reads of the role wait for an exchange (the maximum)", maxDedicated)

// lockDedicated locks a name for an exchange of a dedicated role. Only one such exchange at a time
// waits for the lock, and the others wait for their turn to do so. Any other operation therefore
// waits for at most two of them. The errors are those of lock, and ErrTooManyWaiting.
func (l *locks) lockDedicated(ctx context.Context, name, role string) (unlock func(), err error) {
	n := l.join(name)
	leave := func() { l.leave(name, n) }
	if !l.enqueue(n, role) {
		leave()
		return nil, ErrTooManyWaiting
	}
	if err := take(ctx, n.turn, l.closed); err != nil {
		l.dequeue(n, role)
		leave()
		return nil, err
	}
	if err := take(ctx, n.held, l.closed); err != nil {
		<-n.turn
		l.dequeue(n, role)
		leave()
		return nil, err
	}
	return func() {
		<-n.held
		<-n.turn // after the lock, so that the current waiters for the lock are next
		l.dequeue(n, role)
		leave()
	}, nil
}

func (l *locks) enqueue(n *nameLock, role string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n.dedicatedUsers[role] >= maxDedicated {
		return false
	}
	n.dedicatedUsers[role]++
	return true
}

func (l *locks) dequeue(n *nameLock, role string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n.dedicatedUsers[role]--; n.dedicatedUsers[role] == 0 {
		delete(n.dedicatedUsers, role)
	}
}

// lockedNames returns the names whose locks are held or waited for.
func (l *locks) lockedNames() map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	names := map[string]bool{}
	addKeys(names, l.names)
	return names
}

// join returns the lock of a name and counts the caller as a user. Each call needs a call of leave.
func (l *locks) join(name string) *nameLock {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.names[name]
	if n == nil {
		n = &nameLock{held: make(chan struct{}, 1), turn: make(chan struct{}, 1), dedicatedUsers: map[string]int{}}
		l.names[name] = n
	}
	n.users++
	return n
}

func (l *locks) leave(name string, n *nameLock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n.users--; n.users == 0 {
		delete(l.names, name)
	}
}

func (l *locks) unlocker(name string, n *nameLock) func() {
	return func() {
		<-n.held
		l.leave(name, n)
	}
}

// take fills a channel with a capacity of one, and waits until that is possible. If closed is nil,
// only ctx ends the wait.
func take(ctx context.Context, one chan struct{}, closed <-chan struct{}) error {
	select {
	case one <- struct{}{}:
		if isClosed(closed) {
			<-one
			return ErrClosed
		}
		return nil
	case <-closed:
		return ErrClosed
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.Canceled) { // the request has been canceled
			return ctx.Err()
		}
		return ErrBusy
	}
}

// Lock locks the names of credentials, roles or key pairs. Until unlock is called, nothing else
// exchanges the credentials or changes what is stored under the names; revoking a lease needs no
// lock. The errors are ErrBusy and ErrClosed.
func (b *Broker) Lock(ctx context.Context, names ...string) (unlock func(), err error) {
	p := pacing.Operator
	if a := pacing.Of(ctx); a != nil {
		p = a.Priority()
	}
	for _, name := range names {
		defer b.await(name, p)()
	}
	return b.locks.lockAll(ctx, names)
}
