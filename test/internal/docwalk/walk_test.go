package docwalk

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// follow walks a page, in which ~~~ stands for the backquotes of a fenced block.
func follow(t *testing.T, dir, page string) error {
	t.Helper()
	parsed, err := Parse("page.md", []byte(strings.ReplaceAll(page, "~~~", "```")))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	return parsed.Walk(ctx, dir, []string{"PATH=" + os.Getenv("PATH")})
}

func TestAPageWithTheShownOutputPasses(t *testing.T) {
	require.NoError(t, follow(t, t.TempDir(), `
1. In a list:

   ~~~console
   $ export NAME=world
   $ echo hello \
       $NAME
   hello world
   ~~~

Write `+"`conf.d/agent.hcl`"+`:

~~~hcl file=conf.d/agent.hcl
one = 1

two = 2
~~~

~~~console
$ cat - conf.d/agent.hcl <<'TEXT'
$NAME stays
TEXT
$NAME stays
...
two = 2
$ for word in three $NAME; do
      echo "$word"
  done
three
world
$ echo 'Error reading:
    permission denied' >&2; false
Error reading: permission denied
~~~

~~~text
is not run
~~~
`))
}

func TestAPageWithAnotherOutputFails(t *testing.T) {
	for name, c := range map[string]struct{ page, says string }{
		"other output":                 {"$ echo yes\nno", "page.md:2: the output is not as shown"},
		"output left out":              {"$ echo yes; echo no\nyes", "page.md:2: the output is not as shown"},
		"a failure":                    {"$ true\n$ echo why; false", "page.md:3: the command ended with status 1\n    $ echo why; false\nprinted:\n    why"},
		"a failure in a pipe":          {"$ false | cat", "status 1"},
		"a failure with output shown":  {"$ echo yes; false\nyes", "status 1"},
		"no failure though shown":      {"$ echo Error reading\nError reading", "the command succeeded, but the page shows that it fails"},
		"another failure than shown":   {"$ echo Error writing; false\nError reading", "the output is not as shown"},
		"the end of the shell":         {"$ exit 0\n$ true", "page.md:2: the command ended the shell"},
		"the end, with a service":      {"$ { sleep 300; } &\n$ exit 0", "page.md:3: the command ended the shell"},
		"a service that fails":         {"$ { echo why; exit 3; } &\n$ cat none", "page.md:2: the command ended with status 3\n    $ { echo why; exit 3; } &\nprinted:\n    why"},
		"output without a command":     {"no prompt", "page.md:2: output without a command above it"},
		"output of a service":          {"$ sleep 60 &\nslept", "page.md:2: a background command must not show output"},
		"a command without an end":     {"$ cat <<TEXT\ntext", "page.md:2: invalid shell command: 1:5: unclosed here-document"},
		"a backslash at the end":       {"$ true \\", "nothing follows the backslash"},
		"no command":                   {"$ fi", "page.md:2: invalid shell command: 1:1: `fi` can only be used to end an `if`"},
		"a command in another fence":   {"$ true\n~~~\n~~~sh\n$ false", "page.md:5: a command outside a console block is not run"},
		"a file that no text names":    {"$ cat agent.hcl\n~~~\n\nIn `other.hcl`:\n\n~~~hcl file=conf.d/agent.hcl\ntext", "page.md:7: the paragraph above must name the file: `conf.d/agent.hcl`"},
		"a file outside the directory": {"$ true\n~~~\n~~~hcl file=../agent.hcl\ntext", `page.md:4: "../agent.hcl" is not a path below`},
	} {
		t.Run(name, func(t *testing.T) {
			assert.ErrorContains(t, follow(t, t.TempDir(), "~~~console\n"+c.page+"\n~~~\n"), c.says)
		})
	}
}

func TestAServiceRunsUntilThePageEnds(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, follow(t, dir, `
~~~console
$ { bash -c 'trap "" TERM; sleep 300 & echo $! >stubborn; wait'; } &
$ { echo $BASHPID >process; sleep 0.5; echo later >token; sleep 300; } &
$ cat token
later
$ test -s stubborn && kill -0 "$(cat process)"
~~~
`), "the command that reads token is retried until the service has written it")
	for _, file := range []string{"process", "stubborn"} {
		content, err := os.ReadFile(filepath.Join(dir, file))
		require.NoError(t, err)
		process, err := strconv.Atoi(strings.TrimSpace(string(content)))
		require.NoError(t, err)
		assert.Eventually(t, func() bool { return ended(process) }, time.Minute, 10*time.Millisecond, file)
	}
}

func TestAReaderSkipsTheSetupOfAnEarlierPageAndWhatNeedsAClusterOrAPackage(t *testing.T) {
	const markdown = "Skip this if you come from another page:\n\n```console setup\n$ touch mounted\n```\n\n" +
		"```console cluster\n$ touch applied\n```\n\n```console package\n$ touch installed\n```\n\n```console\n$ touch read\n```\n"
	page, err := Parse("page.md", []byte(markdown))
	require.NoError(t, err)
	for _, c := range []struct {
		page  *Page
		files []string
	}{
		{page, []string{"applied", "installed", "mounted", "read"}},
		{page.Without(Setup), []string{"applied", "installed", "read"}},
		{page.Without(Cluster), []string{"installed", "mounted", "read"}},
		{page.Without(Cluster).Without(Setup).Without(Package), []string{"read"}},
		{page.Only(Package), []string{"installed"}},
	} {
		dir := t.TempDir()
		require.NoError(t, c.page.Walk(t.Context(), dir, []string{"PATH=" + os.Getenv("PATH")}))
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		var files []string
		for _, entry := range entries {
			files = append(files, entry.Name())
		}
		assert.Equal(t, c.files, files)
	}
	assert.Equal(t, 4, page.Commands())
	assert.Equal(t, 3, page.Without(Setup).Commands())
}

func TestAPageBeginsWhereTheOneBeforeItEnded(t *testing.T) {
	page := func(commands string) *Page {
		p, err := Parse("page.md", []byte("```console\n"+commands+"\n```\n"))
		require.NoError(t, err)
		return p
	}
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "examples", "agent"), 0o700))
	leaves, returns, needsRoot := page("$ cd examples/agent"), page("$ cd ../.."), page("$ test -d examples")

	reader := NewReader(dir, []string{"PATH=" + os.Getenv("PATH")})
	require.NoError(t, reader.Follow(t.Context(), needsRoot))
	require.NoError(t, reader.Follow(t.Context(), leaves))
	require.ErrorContains(t, reader.Follow(t.Context(), needsRoot), "status 1", "the page before it does not return")
	require.NoError(t, reader.Follow(t.Context(), returns))
	require.NoError(t, reader.Follow(t.Context(), needsRoot))
}

func TestASetupBlockSaysWhoSkipsIt(t *testing.T) {
	for _, above := range []string{"", "Enable the engine:\n\n", "Skip the next commands if you come from another page:\n\n", "Skip this if.\n\n## A heading\n\n"} {
		_, err := Parse("page.md", []byte(above+"```console setup\n$ true\n```\n"))
		assert.ErrorContains(t, err, `the paragraph above a setup block must say "Skip this if"`)
	}
}

// ended reports whether a process has ended, even if it has not been reaped.
func ended(process int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(process), "stat"))
	return err != nil || strings.Contains(string(stat), ") Z ") || syscall.Kill(process, 0) != nil
}

func TestACommandEndsWithItsContext(t *testing.T) {
	page, err := Parse("page.md", []byte("```console\n$ touch started; sleep 300\n```\n"))
	require.NoError(t, err)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for ; ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
			if _, err := os.Stat(filepath.Join(dir, "started")); err == nil {
				cancel()
			}
		}
	}()
	err = page.Walk(ctx, dir, []string{"PATH=" + os.Getenv("PATH")})
	require.ErrorContains(t, err, "page.md:2: the command ended the shell, or timed out")
	assert.NotContains(t, err.Error(), "did not end within", "stop does not wait for killed commands")
}

func TestMatch(t *testing.T) {
	const lease = "lease_id kensho/creds/prod/sPrTnh7bQbniDg1b2DiByb5I"
	for _, c := range []struct {
		shown, printed string
		same           bool
	}{
		{"", "anything", true},
		{"Key   Value\n---   -----", "Key Value\n\n--- -----\n", true},
		{"state ok", "state failed", false},
		{"tokenbroker v0.1.0", "tokenbroker v0.1.0", true},
		{"tokenbroker v0.1.0", "tokenbroker v0.2.0", false},
		{"tokenbroker v0.1.0", "tokenbroker v0.1.0-rc.1", false},
		{"state ok", "state", false},
		{"state", "state ok", false},
		{"state ok", "prefix state ok", false},
		{"expire_time 2026-11-29T14:09:18Z", "expire_time 2027-01-01T00:00:00Z", true},
		{"expire_time 2026-11-29T14:09:18Z", "lease_time 2027-01-01T00:00:00Z", false},
		{lease, "lease_id kensho/creds/prod/abcdefghij", true},
		{lease, "lease_id kensho/creds/batch/sPrTnh7bQbniDg1b2DiByb5I", false},
		{lease, "lease_id kensho/creds/prod", false},
		{"access_token eyJraWQiOi...", "access_token at-Q2", true},
		{"access_token eyJraWQiOi…", "access_token at-Q2", true},
		{"access_token eyJraWQiOi...", "access_token", false},
		{"Code: 403. Errors:", "Code: 403. Errors:", true},
		{"Code: 403. Errors:", "Code: 400. Errors:", false},
		{"exchanges 1", "exchanges 12", false},
		{"ttl 2995", "ttl 1876", true},
		{"one\n...\nfour", "one\ntwo\nthree\nfour", true},
		{"one\n...\nfour", "one\nfour", true},
		{"one\n...", "two\nfour", false},
		{"a.b", "a-b", false},
		{"ok ...", "go: downloading example.com/a v1.0.0\ngo: downloading example.com/b v1.0.0\nok a/b 1.1s\n", true},
		{"ok ...", "go: finding example.com/a v1.0.0\nok a/b 1.1s\n", false},
	} {
		assert.Equal(t, c.same, match(c.shown, c.printed), "%q shown, %q printed", c.shown, c.printed)
	}
}
