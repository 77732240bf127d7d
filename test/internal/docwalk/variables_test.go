package docwalk

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestVariablesAreThoseThatThePageDoesNotSet(t *testing.T) {
	page, err := Parse("page.md", []byte("```console\n"+`$ export READER="$(vault token create -policy="$POLICY")"
$ VAULT_TOKEN="$READER" vault read "${NAME}" -address="$VAULT_ADDR"
$ HASH=x; echo "$HASH" "$1" "$?" '$QUOTED'
$ for ONE in a b; do echo "$ONE"; done
$ (umask 077; echo "$VAULT_TOKEN" >file) &
`+"```\n\n```sh\necho $NOT_RUN\n```\n"))
	require.NoError(t, err)
	variables, err := page.Variables()
	require.NoError(t, err)
	assert.Equal(t, []string{"NAME", "POLICY", "VAULT_ADDR", "VAULT_TOKEN"}, variables)
}
