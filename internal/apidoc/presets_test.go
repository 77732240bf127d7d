package apidoc

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAPartOfAPageIsReplacedAndTheRestIsKept(t *testing.T) {
	page := "# Page\n\n<!-- parts: made by a machine -->\nold\n<!-- end of parts -->\n\nThe end.\n"
	replaced, err := Replace([]byte(page), "parts", []byte("new"))
	require.NoError(t, err)
	assert.Equal(t, "# Page\n\n<!-- parts: made by a machine -->\nnew\n<!-- end of parts -->\n\nThe end.\n", string(replaced))
}

func TestAPartWithoutItsSectionIsAnError(t *testing.T) {
	for _, page := range []string{"", "\n<!-- parts: -->\n", "\n<!-- end of parts -->\n<!-- parts: -->\n"} {
		_, err := Replace([]byte(page), "parts", nil)
		assert.ErrorContains(t, err, "no section for parts", "%q", page)
	}
}
