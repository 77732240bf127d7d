package provider

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// allocated returns the memory that f allocates, in MiB. It measures the work of f independently
// of the machine's speed.
func allocated(f func()) float64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return float64(after.TotalAlloc-before.TotalAlloc) / (1 << 20)
}

// full returns a list with as many elements as fit into a response.
func full(opening, element, closing string) string {
	n := (maxBody - len(opening) - len(closing)) / (len(element) + 1)
	return opening + strings.Repeat(element+",", n-1) + element + closing
}

// members returns an object with as many members as fit into a response.
func members(name string) string {
	var text strings.Builder
	text.WriteString("{")
	for i := 0; text.Len() < maxBody-2*len(name)-40; i++ {
		_, _ = fmt.Fprintf(&text, `"%s%d":1,`, name, i)
	}
	return text.String() + `"error":"e"}`
}

func TestTheCostOfAnyAnswerIsBounded(t *testing.T) {
	for name, body := range map[string]string{
		"nested arrays":       strings.Repeat("[", maxBody/2) + strings.Repeat("]", maxBody/2),
		"nested errors":       strings.Repeat(`{"errors":[`, 75_000) + "1" + strings.Repeat("]}", 75_000),
		"errors side by side": full(`{"errors":[`, `{"errors":[{"message":"a b c"}]}`, "]}"),
		"codes side by side":  full(`{"errors":[`, `{"code":"x"}`, "]}"),
		"an error of numbers": full(`{"error":[`, "1", "]}"),
		"objects":             full("[", "{}", "]"),
		"numbers":             full("[", "1", "]"),
		"a long text":         full(`{"message":"`, "a ", `"}`),
		"members":             members("k"),
		"long members":        members(strings.Repeat("_", 200)),
		"tokens":              `{"message":"` + strings.Repeat("a b ", maxSearched/4) + `","tokens":["kT9vXw2L"` + strings.Repeat(`,"kT9vXw2L"`, 5000) + "]}",
		"a form":              "error=a" + strings.Repeat("&a%41=b", maxBody/7-1),
		"a form of escapes":   "error=" + strings.Repeat("%41", maxBody/3-2),
	} {
		for _, status := range []int{200, 400} {
			client, err := NewClient(ClientOptions{Transport: answering(status, body), Timeout: time.Minute})
			require.NoError(t, err)
			cost := allocated(func() {
				reply, err := client.Do(request(t))
				if err == nil {
					_ = reply.NoToken("")
					_ = reply.Decode(&struct{ Token Text }{})
				}
			})
			assert.Less(t, cost, 40.0, "%d, %s", status, name)
		}
	}
}

func TestARefusalThatIsTooLongIsNotDecoded(t *testing.T) {
	short, _ := json.Marshal(map[string]string{"error": "invalid_grant", "padding": strings.Repeat("a", maxRefusal-100)})
	long, _ := json.Marshal(map[string]string{"error": "invalid_grant", "padding": strings.Repeat("a", maxRefusal)})
	for code, body := range map[string][]byte{"invalid_grant": short, "": long} {
		client, err := NewClient(ClientOptions{Transport: answering(400, string(body)), Timeout: time.Minute})
		require.NoError(t, err)
		_, err = client.Do(request(t))
		var e *Error
		require.ErrorAs(t, err, &e)
		assert.Equal(t, code, e.Code)
		assert.Equal(t, Rejected, e.Kind)
	}
}

func TestTheCostOfLongSecretsIsBounded(t *testing.T) {
	text := strings.Repeat("a b c d e f g h ", maxSearched/16)
	for name, secrets := range map[string][]string{
		"a long token":     {strings.Repeat("kT9vXw2Lq8ZrBn4Y", 200<<10/16)},
		"of one letter":    {strings.Repeat("a", 200<<10)},
		"all escaped":      {strings.Repeat("%25", 200<<10/3)},
		"many tokens":      strings.Fields(strings.Repeat(strings.Repeat("kT9vXw2L", 256)+" ", 20)),
		"not all of ASCII": {strings.Repeat("kT9vXw2Lq8ZrBn4é", 200<<10/16)},
	} {
		assert.Less(t, allocated(func() { redact(text, secrets) }), 40.0, name)
		assert.Less(t, allocated(func() { ContainsSecret(strings.Repeat("b", maxToken), secrets) }), 40.0, name)
	}
}

func TestAPartOfALongTokenIsRedacted(t *testing.T) {
	token := strings.Repeat("kT9-", 40<<10) + "vXw_2Lq.8ZrB" + strings.Repeat("n4Y.", 10<<10)
	assert.Equal(t, "you sent "+mask, redact("you sent vXw_2Lq.8ZrB", []string{token}))
}
