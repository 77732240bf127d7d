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

// cpuTime is what a process has taken so far, for itself and for its system calls. The
// process's clock is exact, where /proc counts in ticks of 10 ms.
func cpuTime(pid int) (time.Duration, error) {
	// The kernel's encoding: the process ID inverted, and the scheduler's clock of all of
	// its threads.
	const scheduler = 2
	var taken unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|scheduler), &taken); err != nil {
		return 0, fmt.Errorf("process %d: its CPU time: %w", pid, err)
	}
	return time.Duration(taken.Nano()), nil
}

// resident is how many KiB of a process are in memory.
func resident(pid int) (float64, error) {
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, err
	}
	return kibibytes(status, "VmRSS:")
}

// kibibytes is the value of a key in one of the kernel's tables.
func kibibytes(table []byte, key string) (float64, error) {
	for line := range strings.Lines(string(table)) {
		if words := strings.Fields(line); len(words) == 3 && words[0] == key && words[2] == "kB" {
			return strconv.ParseFloat(words[1], 64)
		}
	}
	return 0, fmt.Errorf("there is no %s", key)
}

// pluginProcess is the one process that a server runs of a plugin's binary.
func pluginProcess(server *vaultserver.Server, binary string) (int, error) {
	found, err := pluginProcesses(server, binary)
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("%d processes run %s, and not one", len(found), filepath.Base(binary))
	}
	if err != nil {
		return 0, err
	}
	return found[0], nil
}

// pluginProcesses are all of them.
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
