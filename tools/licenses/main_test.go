package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// given writes a module with files, whose packages in folders are linked.
func given(t *testing.T, files map[string]string, folders ...string) *module {
	t.Helper()
	m := &module{name: "example.com/m v1.0.0", dir: t.TempDir()}
	for name, text := range files {
		path := filepath.Join(m.dir, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	for _, folder := range folders {
		m.packages = append(m.packages, filepath.Join(m.dir, folder))
	}
	return m
}

func TestAModuleHasTheLicencesOfItsLinkedPackages(t *testing.T) {
	found, err := given(t, map[string]string{
		"LICENSE.md": "\r\none\r\ntwo\r\n", "NOTICE": "three", "notice.go": "package m", "README": "four",
		"internal/fork/COPYING": "five", "internal/fork/deep/deep.go": "package deep",
		"other/LICENSE": "six", "other/other.go": "package other",
	}, "", "internal/fork/deep").licences()
	require.NoError(t, err)
	assert.Equal(t, []licence{
		{"example.com/m v1.0.0, LICENSE.md", "one\ntwo\n"},
		{"example.com/m v1.0.0, NOTICE", "three\n"},
		{"example.com/m v1.0.0, internal/fork/COPYING", "five\n"},
	}, found)
}

func TestAModuleWithoutALicenceIsAnError(t *testing.T) {
	_, err := given(t, map[string]string{"NOTICE": "three", "m.go": "package m"}, "").licences()
	assert.EqualError(t, err, "example.com/m v1.0.0 has no licence: check its terms")
}

func TestATextIsPrintedOnceBelowAllItsFiles(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, write(&out, []licence{{"a, LICENSE", "same\n"}, {"b, LICENSE", "other\n"}, {"c, COPYING", "same\n"}}))
	assert.Contains(t, out.String(), "=\na, LICENSE\nc, COPYING\n-")
	assert.Equal(t, 1, bytes.Count(out.Bytes(), []byte("same")))
}
