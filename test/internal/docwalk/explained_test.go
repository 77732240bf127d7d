package docwalk

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// wellKnown are the variables that every reader knows: those of the shell and of the vault command.
var wellKnown = []string{"HOME", "PATH", "PWD", "VAULT_ADDR", "VAULT_TOKEN"}

var variable = regexp.MustCompile(`\$\{?#?([A-Z][A-Z0-9_]+)`)

// unexplained returns the variables of a page's commands that the page neither sets nor names in
// its text, where it says what they are.
func unexplained(page *Page, markdown string) []string {
	var found []string
	for _, s := range page.steps {
		for _, match := range variable.FindAllStringSubmatch(s.command, -1) {
			name := match[1]
			isSet := regexp.MustCompile(`\b` + name + `=`).MatchString(markdown)
			if !isSet && !strings.Contains(markdown, "`$"+name+"`") && !slices.Contains(wellKnown, name) {
				found = append(found, fmt.Sprintf("%s:%d: $%s", page.name, s.line, name))
			}
		}
	}
	return found
}

func TestThePagesExplainTheVariablesOfTheirCommands(t *testing.T) {
	t.Chdir("../../..")
	pages, err := filepath.Glob("docs/*.md")
	require.NoError(t, err)
	for _, name := range append(pages, "README.md") {
		markdown, err := os.ReadFile(name)
		require.NoError(t, err)
		page, err := Parse(name, markdown)
		require.NoError(t, err)
		assert.Empty(t, unexplained(page, string(markdown)), "say where the value comes from")
	}
}

func TestAVariableIsExplainedIfThePageNamesOrSetsIt(t *testing.T) {
	markdown := "`$NAMED` is the name.\n\n```console\n$ SET=1 run \"$NAMED\" $SET ${UNKNOWN} $HOME\n```\n"
	page, err := Parse("page.md", []byte(markdown))
	require.NoError(t, err)
	assert.Equal(t, []string{"page.md:4: $UNKNOWN"}, unexplained(page, markdown))
}
