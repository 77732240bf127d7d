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

// The README shows a recording of this program, which make recording writes. Who changes
// what the demo tells records it anew.
func TestTheRecordingShowsTheWholeDemoAndNothingOfTheMachine(t *testing.T) {
	svg, err := os.ReadFile("../../docs/demo.svg")
	require.NoError(t, err)
	text := string(svg)
	headings := headings(t)
	assert.Len(t, headings, 10)
	for _, told := range append(headings,
		"permission denied", "vault agent -config=agent.hcl", "the vendor issues no newer token", "degraded", "tokenbroker_reads_total", "That was all.",
	) {
		assert.Contains(t, text, told)
	}
	for _, private := range []string{"/tmp", "/home/", "/root", "/work", "/Users/", "demo failed", os.TempDir()} {
		assert.NotContains(t, text, private)
	}
	assert.Less(t, len(svg), 300_000, "bytes, for everyone who opens the README")

	match := regexp.MustCompile(`--animation-duration: (\d+)ms`).FindStringSubmatch(text)
	require.NotNil(t, match)
	milliseconds, err := strconv.Atoi(match[1])
	require.NoError(t, err)
	assert.LessOrEqual(t, time.Duration(milliseconds)*time.Millisecond, time.Minute, "and who watches it")
}

// headings are those that the program tells, in its source.
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
