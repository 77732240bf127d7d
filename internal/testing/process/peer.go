package process

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Peer returns which of the process groups has the other end of a TCP connection over IPv4
// loopback. It returns an error if none of them has it, or no longer has it. It reads /proc.
func Peer(conn net.Conn, groups []int) (group int, err error) {
	theirs, err := endpoint(conn.RemoteAddr())
	if err != nil {
		return 0, err
	}
	ours, err := endpoint(conn.LocalAddr())
	if err != nil {
		return 0, err
	}
	inode, err := socket(theirs, ours)
	if err != nil {
		return 0, err
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, process := range processes {
		pid, err := strconv.Atoi(filepath.Base(process))
		if err != nil {
			return 0, err
		}
		// An error means that the process has ended.
		group, err := syscall.Getpgid(pid)
		if err == nil && slices.Contains(groups, group) && holds(process, inode) {
			return group, nil
		}
	}
	return 0, fmt.Errorf("none of the process groups has the connection from %s", conn.RemoteAddr())
}

// holds reports whether a process has a socket open. process is its folder in /proc.
func holds(process, inode string) bool {
	descriptors, _ := filepath.Glob(process + "/fd/*")
	return slices.ContainsFunc(descriptors, func(descriptor string) bool {
		target, err := os.Readlink(descriptor)
		return err == nil && target == "socket:["+inode+"]"
	})
}

// socket returns the inode of the socket with local address from and remote address to.
func socket(from, to string) (inode string, err error) {
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(table)) {
		// sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode …
		fields := strings.Fields(line)
		if len(fields) > 9 && fields[1] == from && fields[2] == to {
			return fields[9], nil
		}
	}
	return "", fmt.Errorf("no connection from %s to %s", from, to)
}

// endpoint returns an address in the format of /proc/net/tcp: the four bytes as a hexadecimal
// number in the machine's byte order, and the port.
func endpoint(address net.Addr) (string, error) {
	tcp, ok := address.(*net.TCPAddr)
	if !ok || tcp.IP.To4() == nil {
		return "", fmt.Errorf("%s is not an IPv4 TCP address", address)
	}
	return fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(tcp.IP.To4()), tcp.Port), nil
}
