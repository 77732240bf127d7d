package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAMedianIsTheMiddleOne(t *testing.T) {
	values := []float64{3, 1, 2}
	assert.InDelta(t, 2, median(values), 0)
	assert.Equal(t, []float64{3, 1, 2}, values, "the order is the caller's")
	assert.InDelta(t, 2.5, median([]float64{4, 1, 3, 2}), 0)
}

func TestARatioIsTheMedianOfTheRoundsAndNotOfTheMedians(t *testing.T) {
	// The machine doubles its speed after the first round, and the subject is always
	// a tenth slower.
	c := comparison{
		Subject: []turn{{Reads: 90}, {Reads: 180}, {Reads: 180}},
		Base:    []turn{{Reads: 100}, {Reads: 200}, {Reads: 200}},
	}
	assert.InDelta(t, 0.9, c.ratio(reads), 1e-9)
}

func TestAPercentileIsOneOfTheValues(t *testing.T) {
	values := make([]float64, 1000)
	for i := range values {
		values[i] = float64(i + 1)
	}
	assert.InDelta(t, 500, percentile(values, 50), 0)
	assert.InDelta(t, 990, percentile(values, 99), 0)
	assert.InDelta(t, 1000, percentile(values, 100), 0)
	assert.InDelta(t, 7, percentile([]float64{7}, 1), 0)
}

func TestWhatWrkSaysIsParsedAndAFailedReadFailsIt(t *testing.T) {
	const before = "Running 1s test @ http://127.0.0.1:8200/v1/x/\n  2 threads and 16 connections\n"
	l, err := parseLoad([]byte(before + `{"requests":4000,"us":1001000,"p50_us":3500,"p99_us":9000,"errors":0}` + "\n"))
	require.NoError(t, err)
	assert.Equal(t, load{Requests: 4000, Duration: 1001000, P50: 3500, P99: 9000}, l)

	_, err = parseLoad([]byte(before + `{"requests":4000,"us":1001000,"p50_us":3500,"p99_us":9000,"errors":3}` + "\n"))
	require.EqualError(t, err, "3 of 4000 reads failed")
	_, err = parseLoad([]byte(before))
	require.ErrorContains(t, err, "printed no result")
}

func TestResultsTakeTheirPlaceOnThePageAndLeaveTheRest(t *testing.T) {
	const page = "# Title\n\n" + begin + "old\n" + end + "\n\nProse.\n"
	once, err := rewrite([]byte(page), "new\n")
	require.NoError(t, err)
	assert.Equal(t, "# Title\n\n"+begin+"\nnew\n\n"+end+"\n\nProse.\n", string(once))
	twice, err := rewrite(once, "new\n")
	require.NoError(t, err)
	assert.Equal(t, once, twice)
	_, err = rewrite([]byte("# Title\n"), "new\n")
	require.ErrorContains(t, err, "no place for results")
}

func TestTheFileSystemIsThatOfTheDeepestMount(t *testing.T) {
	const mounts = "overlay / overlay rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/sda /tmpfoo ext4 rw 0 0\n"
	assert.Equal(t, "tmpfs", fileSystem(mounts, "/tmp"))
	assert.Equal(t, "overlay", fileSystem(mounts, "/var/tmp"))
}
