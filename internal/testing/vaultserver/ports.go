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

// ports are the two consecutive ports that a server has reserved until it is stopped, even while
// it is down. Vault uses the port after its listener's for cluster traffic.
type ports struct {
	listen, cluster string   // addresses
	lock            *os.File // keeps other test processes from taking the ports
}

// reservePorts reserves two ports below the range of ephemeral ports.
func reservePorts(ctx context.Context) (*ports, error) {
	const first, pairs, attempts = 20_000, 6_000, 100
	for range attempts {
		port := first + 2*rand.IntN(pairs)
		lock, err := lockFile(filepath.Join(os.TempDir(), fmt.Sprintf("tokenbroker-port-%d.lock", port)))
		if err != nil {
			return nil, err
		}
		if lock == nil {
			continue // reserved for another server
		}
		p := &ports{address(port), address(port + 1), lock}
		if isFree(ctx, p.listen) && isFree(ctx, p.cluster) {
			return p, nil
		}
		p.release()
	}
	return nil, errors.New("no two consecutive free ports found")
}

// release ends the reservation.
func (p *ports) release() {
	// Remove the file while it is locked, so that no process locks a removed file.
	_ = os.Remove(p.lock.Name())
	_ = p.lock.Close()
}

// lockFile creates and locks a file. It returns nil if the file is locked, or belongs to another
// user.
func lockFile(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrPermission) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	// Between the two calls, another process may have removed the file, and a third may have
	// created it again.
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
