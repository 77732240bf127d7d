package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// locks are the locks of names. Only the holder of a name's lock calls the vendor for it or
// changes its storage. Names of credentials, of roles and of key pairs are locked.
type locks struct {
	closed <-chan struct{}

	mu    sync.Mutex
	names map[string]*nameLock
}

type nameLock struct {
	// held has an element while the lock is held. A waiter on a channel can give up, one on a
	// mutex cannot.
	held chan struct{}

	// turn has an element while a dedicated exchange holds the lock or is next to wait for it.
	turn chan struct{}

	// users counts those that hold the lock or wait for it; dedicated counts the dedicated
	// exchanges among them, by role. Both are guarded by locks.mu.
	users          int
	dedicatedUsers map[string]int
}

func newLocks(closed <-chan struct{}) *locks {
	return &locks{closed: closed, names: map[string]*nameLock{}}
}

// lock locks a name. Its errors are ErrClosed, ErrBusy if the context's deadline passes, and the
// context's error if it is canceled.
func (l *locks) lock(ctx context.Context, name string) (unlock func(), err error) {
	n := l.join(name)
	if err := take(ctx, n.held, l.closed); err != nil {
		l.leave(name, n)
		return nil, err
	}
	return l.unlocker(name, n), nil
}

// lockClosed is lock after Close.
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

// inOrder returns names in the order in which several are locked, so that no two callers wait for
// each other.
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

// maxDedicated is how many dedicated exchanges of one role may hold the lock of a name or wait
// for it.
const maxDedicated = 16

// ErrTooManyWaiting means that too many reads of a dedicated role already wait for the vendor.
var ErrTooManyWaiting = fmt.Errorf("%d reads of the role wait for an exchange (the maximum)", maxDedicated)

// lockDedicated locks a name for an exchange of a dedicated role. One such exchange at a time
// waits for the lock; the others wait for their turn to do so, so that anything else waits for
// at most two of them. Its errors are those of lock, and ErrTooManyWaiting.
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
		<-n.turn // after the lock, so that those who wait for the lock by now are next
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

// inUse returns the names whose locks are held or waited for.
func (l *locks) inUse() map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	names := map[string]bool{}
	addKeys(names, l.names)
	return names
}

// join returns the lock of a name, which stays until as many calls of leave.
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

// take waits for a channel that holds one element. A nil closed never ends the wait.
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
		if errors.Is(ctx.Err(), context.Canceled) { // nothing waits any more
			return ctx.Err()
		}
		return ErrBusy
	}
}

// Lock locks names, of credentials, roles or key pairs: until unlock is called, nothing else
// calls a vendor for them or changes what storage has of them. Its errors are ErrBusy and
// ErrClosed.
func (b *Broker) Lock(ctx context.Context, names ...string) (unlock func(), err error) {
	return b.locks.lockAll(ctx, names)
}
