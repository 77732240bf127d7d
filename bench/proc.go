package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vault-plugin-secrets-tokenbroker/internal/testing/vaultserver"
)

// cpuTime returns the CPU time that a process has used so far, in user and kernel mode. It
// reads the CPU clock of the process, because /proc counts in ticks of 10 ms.
func cpuTime(pid int) (time.Duration, error) {
	// The kernel encodes the clock ID as the inverted process ID, and the kind of clock: here
	// the scheduler's, over all threads.
	const scheduler = 2
	var taken unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|scheduler), &taken); err != nil {
		return 0, fmt.Errorf("cannot read the CPU time of process %d: %w", pid, err)
	}
	return time.Duration(taken.Nano()), nil
}

// resident returns the resident memory of a process in KiB.
func resident(pid int) (float64, error) {
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, err
	}
	return kibibytes(status, "VmRSS:")
}

// kibibytes returns the value of a key in a table of /proc.
func kibibytes(table []byte, key string) (float64, error) {
	for line := range strings.Lines(string(table)) {
		if words := strings.Fields(line); len(words) == 3 && words[0] == key && words[2] == "kB" {
			return strconv.ParseFloat(words[1], 64)
		}
	}
	return 0, fmt.Errorf("no value for %s", key)
}

// pluginProcess returns the ID of the process in which the server runs a plugin's binary. It
// returns an error unless there is exactly one.
func pluginProcess(server *vaultserver.Server, binary string) (int, error) {
	found, err := pluginProcesses(server, binary)
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("%d processes run %s, expected 1", len(found), filepath.Base(binary))
	}
	if err != nil {
		return 0, err
	}
	return found[0], nil
}

// pluginProcesses returns the IDs of all processes in which the server runs a plugin's binary.
func pluginProcesses(server *vaultserver.Server, binary string) (found []int, err error) {
	plugins, err := server.Plugins()
	for _, pid := range plugins {
		path, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "exe"))
		if err == nil && filepath.Base(path) == filepath.Base(binary) {
			found = append(found, pid)
		}
	}
	return found, err
}
