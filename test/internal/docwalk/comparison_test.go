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
	// link is a link with its address, and reference one whose address is defined elsewhere.
	link      = regexp.MustCompile(`\[[^\]]+\]\(([^)]+)\)`)
	reference = regexp.MustCompile(`\[[^\]]+\]\[([^\]]+)\]`)

	// pinned matches the address of a file at a commit, which does not change.
	pinned = regexp.MustCompile(`^https://github\.com/[^/]+/[^/]+/blob/[0-9a-f]{40}/`)
)

// Each cell about another engine links to the code that shows it, at a commit, so that a
// reader can check it. TestNoLinkOfTheDocumentationIsBroken checks the links to files of this
// repository.
func TestEachCellOfTheComparisonCanBeChecked(t *testing.T) {
	content, err := os.ReadFile("../../../docs/comparison.md")
	require.NoError(t, err)
	page := string(content)

	defined, used := map[string]string{}, map[string]bool{}
	for _, definition := range regexp.MustCompile(`(?m)^\[([^\]]+)\]: (\S+)$`).FindAllStringSubmatch(page, -1) {
		defined[definition[1]] = definition[2]
		assert.Regexp(t, pinned, definition[2])
	}
	rows := regexp.MustCompile(`(?m)^\| [^-|].*\|$`).FindAllString(page, -1)
	assert.GreaterOrEqual(t, len(rows), 2*10, "two tables")
	for _, row := range rows {
		cells := strings.Split(strings.Trim(row, "|"), "|")
		require.Len(t, cells, 5, row)
		for i, cell := range cells[1:] {
			ours, theirs := link.MatchString(cell), reference.FindAllStringSubmatch(cell, -1)
			assert.Equal(t, i == 0, ours, "only the cell of this engine links into the repository: %s", cell)
			assert.Equal(t, i > 0, len(theirs) > 0, "only the cells of other engines link to their code: %s", cell)
			for _, to := range theirs {
				used[to[1]] = true
				assert.NotEmpty(t, defined[to[1]], "undefined link in %s", cell)
			}
		}
	}
	for name := range defined {
		assert.True(t, used[name], "unused link definition %s", name)
	}
}
