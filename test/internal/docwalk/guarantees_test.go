package docwalk

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Each section of the page of guarantees lists exactly the tests that cite its guarantee.
func TestThePageOfGuaranteesListsTheTestsThatShowThem(t *testing.T) {
	page, err := os.ReadFile("../../../docs/guarantees.md")
	require.NoError(t, err)
	listed := map[string][]string{} // by the number of the guarantee
	name := regexp.MustCompile("`(Test[A-Za-z0-9_]+)`")
	for _, section := range strings.Split(string(page), "\n## ")[1:] {
		number, _, _ := strings.Cut(section, ".")
		for _, match := range name.FindAllStringSubmatch(section, -1) {
			listed[number] = append(listed[number], match[1])
		}
		slices.Sort(listed[number])
	}
	there := map[string][]string{}
	test := regexp.MustCompile(`(?m)^func (TestGuarantee([0-9]+)[A-Za-z0-9_]*)\(`)
	require.NoError(t, filepath.WalkDir("../../..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, match := range test.FindAllStringSubmatch(string(source), -1) {
			there[match[2]] = append(there[match[2]], match[1])
		}
		return err
	}))
	for number := range there {
		slices.Sort(there[number])
	}
	assert.Len(t, listed, 17)
	assert.Equal(t, there, listed)
}
