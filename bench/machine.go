package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// A machine describes the hardware and software that the figures depend on.
type machine struct {
	CPU    string  `json:"cpu"`
	Cores  int     `json:"cores"`
	Memory float64 `json:"memory_gib"`
	Kernel string  `json:"kernel"`
	Disk   string  `json:"disk"` // the file system that raft writes to
	Go     string  `json:"go"`
	Server string  `json:"server"`
}

func describe(ctx context.Context, server string) (machine, error) {
	m := machine{CPU: runtime.GOARCH, Cores: runtime.NumCPU(), Go: runtime.Version()}
	memory, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return m, err
	}
	kib, err := kibibytes(memory, "MemTotal:")
	if err != nil {
		return m, err
	}
	m.Memory = kib / (1 << 20)
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return m, err
	}
	m.Kernel = strings.TrimSpace(string(kernel))
	cpus, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return m, err
	}
	for line := range strings.Lines(string(cpus)) {
		// Some architectures have no model name.
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "model name" {
			m.CPU = strings.TrimSpace(value)
			break
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return m, err
	}
	m.Disk = fileSystem(string(mounts), os.TempDir())
	version, err := exec.CommandContext(ctx, server, "version").Output()
	if err != nil {
		return m, fmt.Errorf("%s version: %w", server, err)
	}
	// Vault v1.19.5 (revision), built …
	words := strings.Fields(string(version))
	m.Server = strings.TrimSuffix(strings.Join(words[:min(2, len(words))], " "), ",")
	return m, nil
}

// fileSystem returns the type of the file system of a path: that of the deepest mount point
// above it, and of the last mount there.
func fileSystem(mounts, path string) string {
	var kind, deepest string
	for line := range strings.Lines(mounts) {
		words := strings.Fields(line)
		if len(words) < 3 {
			continue
		}
		point := strings.TrimSuffix(words[1], "/") + "/"
		if strings.HasPrefix(path+"/", point) && len(point) >= len(deepest) {
			kind, deepest = words[2], point
		}
	}
	return kind
}

func (m machine) String() string {
	return fmt.Sprintf("%s, %d cores, %.0f GiB of memory, Linux %s, raft on %s; %s, plugin built with %s",
		m.CPU, m.Cores, m.Memory, m.Kernel, m.Disk, m.Server, m.Go)
}
