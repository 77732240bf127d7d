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

// Peer is which of some process groups is at the other end of a TCP connection over IPv4
// loopback. It is an error if none is, or is any more.
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
		// One that cannot be looked at has ended.
		group, err := syscall.Getpgid(pid)
		if err == nil && slices.Contains(groups, group) && holds(process, inode) {
			return group, nil
		}
	}
	return 0, fmt.Errorf("none of them holds the connection from %s", conn.RemoteAddr())
}

// holds is whether a process has a socket open.
func holds(process, inode string) bool {
	descriptors, _ := filepath.Glob(process + "/fd/*")
	return slices.ContainsFunc(descriptors, func(descriptor string) bool {
		target, err := os.Readlink(descriptor)
		return err == nil && target == "socket:["+inode+"]"
	})
}

// socket is the inode of the connection from one end to the other.
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
	return "", fmt.Errorf("there is no connection from %s to %s any more", from, to)
}

// endpoint is an address as the kernel's table has it: the four bytes as a number of
// this machine's byte order, in hexadecimal.
func endpoint(address net.Addr) (string, error) {
	tcp, ok := address.(*net.TCPAddr)
	if !ok || tcp.IP.To4() == nil {
		return "", fmt.Errorf("%s is no TCP address of IPv4", address)
	}
	return fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(tcp.IP.To4()), tcp.Port), nil
}
