package main

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The README shows a recording of this program. After a change of the demo's output, run
// `make recording`.
func TestTheRecordingShowsTheDemoAndNothingOfTheMachine(t *testing.T) {
	text := recording(t)
	headings := headings(t)
	assert.Len(t, headings, 10)
	for _, told := range append(headings[2:],
		"permission denied", "vault agent -config=agent.hcl", "the vendor issues no newer token", "degraded", "tokenbroker_reads_total", "Done.",
	) {
		assert.Contains(t, text, told)
	}
	for _, private := range []string{"/tmp", "/home/", "/root", "/work", "/Users/", "demo failed", os.TempDir()} {
		assert.NotContains(t, text, private)
	}
	assert.Less(t, len(text), 300_000, "bytes: every visitor of the README downloads it")
}

func TestTheRecordingIsShort(t *testing.T) {
	match := regexp.MustCompile(`--animation-duration: (\d+)ms`).FindStringSubmatch(recording(t))
	require.NotNil(t, match)
	milliseconds, err := strconv.Atoi(match[1])
	require.NoError(t, err)
	assert.LessOrEqual(t, time.Duration(milliseconds)*time.Millisecond, 20*time.Second)
}

// A viewer without animations shows only the first frame.
func TestTheRecordingBeginsWithAToken(t *testing.T) {
	svg := recording(t)
	_, frames, found := strings.Cut(svg, `<g id="screen_view"><g>`)
	require.True(t, found)
	first, _, _ := strings.Cut(frames, "</g>")
	var screen strings.Builder
	for _, used := range regexp.MustCompile(`href="#(g\d+)"`).FindAllStringSubmatch(first, -1) {
		_, line, found := strings.Cut(svg, `<g id="`+used[1]+`">`)
		require.True(t, found)
		line, _, _ = strings.Cut(line, "</g>")
		screen.WriteString(regexp.MustCompile(`<[^>]*>`).ReplaceAllString(line, "") + "\n")
	}
	assert.Contains(t, screen.String(), headings(t)[2])
	assert.Contains(t, screen.String(), "$ vault read kensho/creds/prod\n")
	assert.Regexp(t, `(?m)^ *access_token +at-\w{20,}$`, screen.String())
}

// recording returns the recording.
func recording(t *testing.T) string {
	t.Helper()
	svg, err := os.ReadFile("../../docs/demo.svg")
	require.NoError(t, err)
	return string(svg)
}

// headings returns the headings of the steps that the program prints, from its source.
func headings(t *testing.T) (all []string) {
	t.Helper()
	for _, file := range []string{"tutorial.go", "outage.go"} {
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, match := range regexp.MustCompile(`heading\("(## [^"\\]+)`).FindAllStringSubmatch(string(source), -1) {
			all = append(all, match[1])
		}
	}
	return all
}
