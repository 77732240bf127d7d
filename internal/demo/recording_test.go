package main

import (
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The README shows a recording of this program. After a change of the demo's output, run
// `make recording`.
func TestTheRecordingShowsTheWholeDemoAndNothingOfTheMachine(t *testing.T) {
	svg, err := os.ReadFile("../../docs/demo.svg")
	require.NoError(t, err)
	text := string(svg)
	headings := headings(t)
	assert.Len(t, headings, 10)
	for _, told := range append(headings,
		"permission denied", "vault agent -config=agent.hcl", "the vendor issues no newer token", "degraded", "tokenbroker_reads_total", "Done.",
	) {
		assert.Contains(t, text, told)
	}
	for _, private := range []string{"/tmp", "/home/", "/root", "/work", "/Users/", "demo failed", os.TempDir()} {
		assert.NotContains(t, text, private)
	}
	assert.Less(t, len(svg), 300_000, "bytes: every visitor of the README downloads it")

	match := regexp.MustCompile(`--animation-duration: (\d+)ms`).FindStringSubmatch(text)
	require.NotNil(t, match)
	milliseconds, err := strconv.Atoi(match[1])
	require.NoError(t, err)
	assert.LessOrEqual(t, time.Duration(milliseconds)*time.Millisecond, time.Minute, "the recording is short")
}

// headings returns the headings that the program prints, from its source.
func headings(t *testing.T) (all []string) {
	t.Helper()
	for _, file := range []string{"tutorial.go", "outage.go"} {
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, match := range regexp.MustCompile(`say\("(## [^"\\]+)`).FindAllStringSubmatch(string(source), -1) {
			all = append(all, match[1])
		}
	}
	return all
}
