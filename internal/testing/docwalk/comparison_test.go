package docwalk

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	// link matches an inline link, and reference a link whose address is defined elsewhere.
	link      = regexp.MustCompile(`\[[^\]]+\]\(([^)]+)\)`)
	reference = regexp.MustCompile(`\[[^\]]+\]\[([^\]]+)\]`)

	// pinned matches the address of a file at a commit.
	pinned = regexp.MustCompile(`^https://github\.com/[^/]+/[^/]+/blob/[0-9a-f]{40}/`)
)

// Each cell of the README's comparison of engines links to the code that shows its claim, at a
// fixed commit. (TestNoLinkOfTheDocumentationLeadsNowhere checks links to files of this
// repository.)
func TestEachCellOfTheComparisonCanBeChecked(t *testing.T) {
	readme, err := os.ReadFile("../../../README.md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(readme), "\n## How it compares\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")

	defined, used := map[string]string{}, map[string]bool{}
	for _, definition := range regexp.MustCompile(`(?m)^\[([^\]]+)\]: (\S+)$`).FindAllStringSubmatch(string(readme), -1) {
		defined[definition[1]] = definition[2]
		assert.Regexp(t, pinned, definition[2])
	}
	rows := regexp.MustCompile(`(?m)^\| [^-|].*\|$`).FindAllString(section, -1)
	assert.GreaterOrEqual(t, len(rows), 10)
	for _, row := range rows {
		cells := strings.Split(strings.Trim(row, "|"), "|")
		require.Len(t, cells, 6, row)
		for i, cell := range cells[1:] {
			ours, theirs := link.MatchString(cell), reference.FindAllStringSubmatch(cell, -1)
			assert.Equal(t, i == 0, ours, "only the first column links to this repository: %s", cell)
			assert.Equal(t, i > 0, len(theirs) > 0, "only the other columns use references: %s", cell)
			for _, to := range theirs {
				used[to[1]] = true
				assert.NotEmpty(t, defined[to[1]], "%s uses an undefined reference", cell)
			}
		}
	}
	for name := range defined {
		assert.True(t, used[name], "the reference %s is not used", name)
	}
}
