package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// connections is the number of connections per core.
const connections = 8

//go:embed wrk.lua
var script []byte

// A load is the result of wrk, with times in microseconds.
type load struct {
	Requests int `json:"requests"`
	Duration int `json:"us"`
	P50      int `json:"p50_us"`
	P99      int `json:"p99_us"`
	Errors   int `json:"errors"`
}

// wrk runs wrk for the duration d, on all cores, against names below a URL.
func (b *bench) wrk(ctx context.Context, url, token string, names int, d time.Duration) (load, error) {
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return load{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	lua := filepath.Join(dir, "wrk.lua")
	if err := os.WriteFile(lua, script, 0o600); err != nil {
		return load{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, d+time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "wrk", fmt.Sprint("-t", b.machine.Cores), fmt.Sprint("-c", connections*b.machine.Cores),
		fmt.Sprintf("-d%.0fs", d.Seconds()), "--timeout=30s", "--latency", "-s", lua, url)
	// The token is not an argument, because every user can see those.
	cmd.Env = append(os.Environ(), "VAULT_TOKEN="+token, fmt.Sprint("NAMES=", names))
	output, err := cmd.CombinedOutput()
	if err != nil {
		return load{}, fmt.Errorf("wrk: %w\n%s", err, output)
	}
	return parseLoad(output)
}

// parseLoad parses the line that the script prints. A failed read is an error.
func parseLoad(output []byte) (load, error) {
	for line := range bytes.Lines(output) {
		if !bytes.HasPrefix(line, []byte("{")) {
			continue
		}
		var l load
		if err := json.Unmarshal(line, &l); err != nil {
			return load{}, err
		}
		switch {
		case l.Errors > 0:
			return load{}, fmt.Errorf("%d of %d reads failed", l.Errors, l.Requests)
		case l.Requests == 0 || l.Duration == 0:
			return load{}, errors.New("wrk read nothing")
		}
		return l, nil
	}
	return load{}, fmt.Errorf("wrk printed no result:\n%s", output)
}
