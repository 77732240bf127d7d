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
	// link is one with its address, and reference one whose address is defined elsewhere.
	link      = regexp.MustCompile(`\[[^\]]+\]\(([^)]+)\)`)
	reference = regexp.MustCompile(`\[[^\]]+\]\[([^\]]+)\]`)

	// pinned is a file as it was at a commit, which does not change.
	pinned = regexp.MustCompile(`^https://github\.com/[^/]+/[^/]+/blob/[0-9a-f]{40}/`)
)

// What the README says of other engines can be checked: each cell of its table leads to
// the code that it was read off, which stays as it was. (TestNoLinkOfTheDocumentationLeadsNowhere
// follows those that lead to files of ours.)
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
			assert.Equal(t, i == 0, ours, "ours leads into the repository, theirs does not: %s", cell)
			assert.Equal(t, i > 0, len(theirs) > 0, "theirs leads to theirs, ours does not: %s", cell)
			for _, to := range theirs {
				used[to[1]] = true
				assert.NotEmpty(t, defined[to[1]], "%s leads nowhere", cell)
			}
		}
	}
	for name := range defined {
		assert.True(t, used[name], "nothing refers to %s", name)
	}
}
