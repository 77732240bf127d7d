package vaultserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// ports are a server's for as long as it exists, also while it is down: two in a row,
// since Vault takes the one after its listener's for cluster traffic.
type ports struct {
	listen, cluster string   // addresses
	lock            *os.File // held against other test processes
}

// reservePorts reserves ports below those that the kernel hands out to programs that ask
// for any.
func reservePorts(ctx context.Context) (*ports, error) {
	const first, pairs, attempts = 20_000, 6_000, 100
	for range attempts {
		port := first + 2*rand.IntN(pairs)
		lock, err := lockFile(filepath.Join(os.TempDir(), fmt.Sprintf("tokenbroker-port-%d.lock", port)))
		if err != nil {
			return nil, err
		}
		if lock == nil {
			continue // another server's
		}
		p := &ports{address(port), address(port + 1), lock}
		if isFree(ctx, p.listen) && isFree(ctx, p.cluster) {
			return p, nil
		}
		p.release()
	}
	return nil, errors.New("found no two free ports in a row")
}

// release lets others have the ports.
func (p *ports) release() {
	// Removed while it is locked, so that nobody locks a file that is about to go.
	_ = os.Remove(p.lock.Name())
	_ = p.lock.Close()
}

// lockFile locks a file, which it creates. It returns nil if the file is locked, or another
// user's.
func lockFile(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrPermission) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	// Another process may have removed it between the two calls, and a third made it anew.
	if syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil || !isAt(file, path) {
		return nil, file.Close()
	}
	return file, nil
}

func isAt(file *os.File, path string) bool {
	opened, err := file.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(path)
	return err == nil && os.SameFile(opened, named)
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func isFree(ctx context.Context, address string) bool {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return false
	}
	return listener.Close() == nil
}
