package dist

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOnlyValidVersionsAreBuilt(t *testing.T) {
	make := func(version string) error {
		return exec.CommandContext(t.Context(), "make", "-C", root, "version", "VERSION="+version).Run()
	}
	for _, version := range []string{"v0.1.0", "v1.2.3", "v10.20.30", "v1.2.3-rc.1", "v1.2.3-0", "v1.2.3-beta-2.x"} {
		require.NoError(t, make(version), version)
	}
	for _, version := range []string{
		"", "main", "1.2.3", "v1", "v1.2", "v1.2.3.4", "v01.2.3", "v1.02.3", "v1.2.3-", "v1.2.3-01", "v1.2.3-rc..1",
		"v1.2.3+ent", "v1.2.3 x", "v1.2.3\nv1.2.3", "v1.2.3;true", "v1.2.3'", "v1.2.3$(shell true)x", "V1.2.3",
	} {
		require.Error(t, make(version), "%q", version)
	}
}
