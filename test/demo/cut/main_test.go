package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The recorder splits the output anywhere.
const recording = `{"version": 2, "width": 92, "height": 34}
[0.1, "o", "\r\n\u001b[36;1m## 1. Store\u001b[0;22m\r\n"]
[0.2, "o", "\r\n\u001b[1m$ vault re"]
[9.5, "o", "ad kensho/creds/prod\u001b[22m\r\n    access_token  at-1\r\n    token_type  Bearer\r\n"]
[9.6, "o", "\r\n\u001b[1m$ vault read sitecore/creds/prod\u001b[22m\r\n    token_type  Bearer\r\n\r\n\u001b[36;1m## 2. Wait"]
[99, "o", "\u001b[0;22m\r\n"]
`

func TestACutRecordingBeginsWithATokenAndHasItsLength(t *testing.T) {
	var out strings.Builder
	require.NoError(t, cut(strings.NewReader(recording), &out, "token_type", 10*time.Second))
	header, events, _ := strings.Cut(out.String(), "\n")
	assert.Equal(t, `{"version": 2, "width": 92, "height": 34}`, header)
	var times []float64
	var frames []string
	for line := range strings.Lines(events) {
		var event []any
		require.NoError(t, json.Unmarshal([]byte(line), &event))
		times = append(times, event[0].(float64))
		assert.Equal(t, "o", event[1])
		frames = append(frames, event[2].(string))
	}
	require.Len(t, frames, 3)
	assert.Contains(t, frames[0], "## 1. Store")
	assert.True(t, strings.HasSuffix(frames[0], "token_type  Bearer\r\n"), frames[0])
	assert.True(t, strings.HasPrefix(frames[1], "\r\n\x1b[1m$ vault read sitecore"), frames[1])
	assert.Equal(t, "\r\n\x1b[36;1m## 2. Wait\x1b[0;22m\r\n", frames[2])
	assert.Zero(t, times[0])
	assert.Greater(t, times[1], 5.0, "the longer frame is shown for longer")
	assert.InDelta(t, 10, times[2], 0.001)
}

func TestAnotherRecordingIsNotCut(t *testing.T) {
	for input, want := range map[string]string{
		strings.SplitAfter(recording, "access_token")[0]: "unexpected end of JSON input",
		recording + "[1, \"i\", \"x\"]\n":                "not an output event",
		`{"version": 2}`:                                 `no "token_type" in the recording`,
	} {
		require.ErrorContains(t, cut(strings.NewReader(input), &strings.Builder{}, "token_type", time.Second), want)
	}
}
