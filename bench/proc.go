package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/vaultserver"
)

// tick is the unit of CPU times in /proc, on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// cpuTime is what a process has taken so far, for itself and for its system calls.
func cpuTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, err
	}
	// pid (comm) state …; the name may hold anything. Fields 14 and 15 of all.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("process %d: its stat is too short", pid)
	}
	user, err := strconv.Atoi(fields[11])
	if err != nil {
		return 0, err
	}
	system, err := strconv.Atoi(fields[12])
	return time.Duration(user+system) * tick, err
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
	plugins, err := server.Plugins()
	if err != nil {
		return 0, err
	}
	var found []int
	for _, pid := range plugins {
		path, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "exe"))
		if err == nil && filepath.Base(path) == filepath.Base(binary) {
			found = append(found, pid)
		}
	}
	if len(found) != 1 {
		return 0, fmt.Errorf("%d processes run %s, and not one", len(found), filepath.Base(binary))
	}
	return found[0], nil
}
