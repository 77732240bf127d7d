package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	agents "vault-plugin-secrets-tokenbroker/internal/testing/storm"
	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
)

func TestAMedianIsTheMiddleOne(t *testing.T) {
	values := []float64{3, 1, 2}
	assert.InDelta(t, 2, median(values), 0)
	assert.Equal(t, []float64{3, 1, 2}, values, "median does not reorder the caller's slice")
	assert.InDelta(t, 2.5, median([]float64{4, 1, 3, 2}), 0)
}

func TestARatioIsTheMedianOfTheRatiosOfRounds(t *testing.T) {
	// The machine doubles its speed after the first round. The subject is 10 % slower in every
	// round.
	c := comparison{
		Subject: []turn{{Reads: 90}, {Reads: 180}, {Reads: 180}},
		Base:    []turn{{Reads: 100}, {Reads: 200}, {Reads: 200}},
	}
	assert.InDelta(t, 0.9, c.ratio(reads).Median, 1e-9)
}

func TestAnIntervalHasTheRanksOfTheSignTest(t *testing.T) {
	// The ranks of the 95 % interval from tables of the sign test, counted from one.
	for n, ranks := range map[int][2]int{
		1: {1, 1}, 2: {1, 2}, 5: {1, 5}, // too few for 95 %
		6: {1, 6}, 8: {1, 8}, 9: {2, 8}, 15: {4, 12}, 25: {8, 18}, 30: {10, 21}, 100: {40, 61},
	} {
		values := make([]float64, n)
		for i := range values {
			values[i] = float64(n - i) // in descending order, since the order must not matter
		}
		assert.Equal(t, interval{float64(ranks[0]), float64(ranks[1])}, medianInterval(values), "%d values", n)
	}
}

func TestAVerdictIsCertainIfTheIntervalIsOnOneSideOfTheLimit(t *testing.T) {
	for _, test := range []struct {
		median, low, high float64
		least, most       string // verdicts on at least 1, and on at most 1
	}{
		{1.2, 1.1, 1.3, "yes", "**no**"},
		{1.2, 1, 1.3, "yes", "no, uncertain"}, // what reaches a limit meets it
		{1.2, 0.9, 1.3, "yes, uncertain", "no, uncertain"},
		{0.9, 0.8, 1.1, "no, uncertain", "yes, uncertain"},
		{0.9, 0.8, 1, "no, uncertain", "yes"},
		{0.9, 0.8, 0.95, "**no**", "yes"},
	} {
		r := ratio{Median: test.median, Interval: interval{test.low, test.high}}
		assert.Equal(t, test.least, atLeast("it", r, 1).verdict(), "at least 1: %v", r)
		assert.Equal(t, test.most, atMostOf("it", r, 1).verdict(), "at most 1: %v", r)
	}
	assert.Equal(t, "yes", atMostIn("it", 100, 100, "MiB").verdict())
	assert.Equal(t, "**no**", atMostIn("it", 101, 100, "MiB").verdict())
}

func TestTheVendorsShareIsItsResponseTimeForEachBatch(t *testing.T) {
	assert.InDelta(t, 500, vendorsShare(5), 0)
	assert.InDelta(t, 500, vendorsShare(16), 0)
	assert.InDelta(t, 3500, vendorsShare(100), 0)
}

func TestSweepsAreReadFromTheMetrics(t *testing.T) {
	const text = "# TYPE tokenbroker_sweep_duration_seconds histogram\n" +
		"tokenbroker_sweep_duration_seconds_bucket{le=\"+Inf\"} 3\n" +
		"tokenbroker_sweep_duration_seconds_sum 0.012\n" +
		"tokenbroker_sweep_duration_seconds_count 3\n# EOF\n"
	s, err := parseSweeps([]byte(text))
	require.NoError(t, err)
	assert.Equal(t, sweeps{count: 3, seconds: 0.012}, s)
	_, err = parseSweeps([]byte("# EOF\n"))
	require.ErrorContains(t, err, "the metrics have no tokenbroker_sweep_duration_seconds_")
}

func TestTheShapeOfAnAnswerHasItsLeaseAndTheKindsOfItsFields(t *testing.T) {
	assert.Equal(t, "lease true, renewable false, 0 warnings, a string, b number, c list of [string], d object",
		shape(&api.Secret{LeaseID: "id", LeaseDuration: 60, Data: map[string]any{
			"b": json.Number("1"), "a": "text", "d": map[string]any{}, "c": []any{"one", "two"},
		}}))
	assert.Equal(t, "lease false, renewable false, 1 warnings", shape(&api.Secret{Warnings: []string{"careful"}}))
}

func TestAProcessHasACPUTime(t *testing.T) {
	taken, err := cpuTime(os.Getpid())
	require.NoError(t, err)
	assert.Positive(t, taken)
	_, err = cpuTime(1 << 23) // above the kernel's maximum process ID
	require.Error(t, err)
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

// hoursOf returns storms in which the last reader takes these times.
func hoursOf(seconds ...float64) (found []hour) {
	for _, last := range seconds {
		found = append(found, hour{Resident: 80, Result: agents.Result{Last: last, Median: 1, Accepted: 100, Throttled: 25}})
	}
	return found
}

func TestTheGoalsOfAStormAreMediansWithIntervals(t *testing.T) {
	limited := scenario{Name: "limited", Credentials: 1000, Rate: vendorsim.Rate{PerSecond: 100}}
	r := hourReport{Scenarios: []hourResults{
		{limited, hoursOf(11, 9, 13)},
		{scenario{Name: "unlimited", Credentials: 1000, Latency: 300 * time.Millisecond}, hoursOf(1, 1.1, 1.2)},
	}}
	r.Goals = r.goals()
	assert.Equal(t, table{
		{"goal", "target", "measured", "met"},
		{"limited: the last reader has its token", "at most 12.0 s", "11.0 s (9.0–13.0)", "yes, uncertain"},
		{"limited: throttled requests", "at most 5.0 %", "20.0 % (20.0–20.0)", "**no**"},
		{"limited: reads that fail and could wait 10s", "at most 0", "0 (0–0)", "yes"},
		{"unlimited: the last reader has its token", "at most 1.5 s", "1.1 s (1.0–1.2)", "yes"},
		{"unlimited: resident memory of the plugin", "at most 100 MiB", "80 MiB (80–80)", "yes"},
	}, goalTable(r.Goals))
	results := r.tables()[1]
	require.Len(t, results, 3)
	assert.Equal(t, []string{"scenario", "least, s", "median reader, s"}, results[0][:3])
	assert.Equal(t, []string{"limited", "10.00", "1.0 (1.0–1.0)"}, results[1][:3])
	assert.Equal(t, "0.30", results[2][1])
}

func TestTheFlagsOfAStormAreChecked(t *testing.T) {
	for args, message := range map[string]string{
		"-storage=disk":          "-storage must be dev or raft",
		"-storms=0":              "-storms and -credentials must be at least 1",
		"-rate=0":                "-rate must be more than 0, and -period at least 10s and more than a storm takes",
		"-period=9s -rate=1000":  "-rate must be more than 0, and -period at least 10s and more than a storm takes",
		"-period=15s -rate=10":   "-rate must be more than 0, and -period at least 10s and more than a storm takes",
		"-storms=8 -docs=folder": "-docs needs at least 9 storms",
	} {
		assert.EqualError(t, runStorms(t.Context(), strings.Fields(args)), message, args)
	}
}

func TestTheOutputOfWrkIsParsedAndAFailedReadIsAnError(t *testing.T) {
	const before = "Running 1s test @ http://127.0.0.1:8200/v1/x/\n  2 threads and 16 connections\n"
	l, err := parseLoad([]byte(before + `{"requests":4000,"us":1001000,"p50_us":3500,"p99_us":9000,"errors":0}` + "\n"))
	require.NoError(t, err)
	assert.Equal(t, load{Requests: 4000, Duration: 1001000, P50: 3500, P99: 9000}, l)

	_, err = parseLoad([]byte(before + `{"requests":4000,"us":1001000,"p50_us":3500,"p99_us":9000,"errors":3}` + "\n"))
	require.EqualError(t, err, "3 of 4000 reads failed")
	_, err = parseLoad([]byte(before))
	require.ErrorContains(t, err, "wrk printed no result")
}

func TestResultsReplaceOnlyTheirSectionOfThePage(t *testing.T) {
	begin, end := marker("bench", "begin"), marker("bench", "end")
	page := "# Title\n\n" + begin + "old\n" + end + "\n\nProse.\n"
	once, err := rewrite([]byte(page), "bench", "new\n")
	require.NoError(t, err)
	assert.Equal(t, "# Title\n\n"+begin+"\nnew\n\n"+end+"\n\nProse.\n", string(once))
	twice, err := rewrite(once, "bench", "new\n")
	require.NoError(t, err)
	assert.Equal(t, once, twice)
	_, err = rewrite([]byte(page), "storm", "new\n")
	require.ErrorContains(t, err, "no section for results")
	_, err = rewrite([]byte("# Title\n"), "bench", "new\n")
	require.ErrorContains(t, err, "no section for results")
}

func TestTheFileSystemIsThatOfTheDeepestMount(t *testing.T) {
	const mounts = "overlay / overlay rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/sda /tmpfoo ext4 rw 0 0\n"
	assert.Equal(t, "tmpfs", fileSystem(mounts, "/tmp"))
	assert.Equal(t, "overlay", fileSystem(mounts, "/var/tmp"))
}

// comparedTo is a comparison with the given ratios of reads and CPU time, one round each.
func comparedTo(what string, reads, cpu float64) comparison {
	return comparison{What: what, Subject: []turn{{Reads: reads, PluginCPU: cpu}}, Base: []turn{{Reads: 1, PluginCPU: 1}}}
}

func TestAPeerHasARowAndNoGoal(t *testing.T) {
	without := &report{Comparisons: []comparison{comparedTo("token/, dev", 1, 1)}}
	with := &report{Comparisons: without.Comparisons, Peer: []comparison{comparedTo("the peer's self/, dev", 0.5, 3)}}
	without.Goals, with.Goals = without.goals(), with.goals()
	assert.Equal(t, without.Goals, with.Goals)
	assert.NotContains(t, without.markdown(), "peer")
	assert.Contains(t, with.markdown(), "| the peer's self/, dev | 1 → 0 | 0.500 |")
}

func TestAReportOfReadsOnlyHasTheirGoals(t *testing.T) {
	r := &report{Comparisons: []comparison{comparedTo("token/, raft", 0.99, 1.01)}}
	r.Goals = r.goals()
	require.Len(t, r.Goals, 2)
	assert.Equal(t, "at least 1.000", r.Goals[0].target())
	assert.Equal(t, "at most 1.000", r.Goals[1].target())
	assert.Equal(t, "**no**", r.Goals[0].verdict())
	assert.Equal(t, "**no**", r.Goals[1].verdict())
	assert.Len(t, r.tables(), 2)
}

func TestTheAuthorizationServerOfThePeerAnswersItsPathOnly(t *testing.T) {
	handler := withPeerTokens(http.NotFoundHandler())
	for path, status := range map[string]int{peerTokenPath: http.StatusOK, "/other": http.StatusNotFound} {
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, nil))
		assert.Equal(t, status, recorder.Code, path)
	}
}
