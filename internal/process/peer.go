package process

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Peer is the process group of whoever is at the other end of a TCP connection over
// IPv4 loopback. It is an error if they have gone, or are another user's.
func Peer(conn net.Conn) (group int, err error) {
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
	descriptors, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return 0, err
	}
	for _, descriptor := range descriptors {
		if target, err := os.Readlink(descriptor); err != nil || target != "socket:["+inode+"]" {
			continue // or closed meanwhile
		}
		pid, err := strconv.Atoi(strings.Split(descriptor, "/")[2])
		if err != nil {
			return 0, err
		}
		return syscall.Getpgid(pid)
	}
	return 0, fmt.Errorf("nobody holds the connection from %s any more", conn.RemoteAddr())
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
