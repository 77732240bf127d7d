package examples

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
)

func TestInjectorKnowsTheAnnotations(t *testing.T) {
	injected := 0
	for _, m := range manifests(t) {
		deployment, ok := m.object.(*apps.Deployment)
		if !ok {
			continue
		}
		require.Empty(t, injectorAnnotations(deployment.Annotations), "%s: the injector reads a pod's annotations", m.file)
		template := deployment.Spec.Template
		given := injectorAnnotations(template.Annotations)
		if len(given) == 0 {
			continue
		}
		injected++
		for name := range given {
			require.True(t, known(name), "%s: %s", m.file, name)
		}
		require.Equal(t, "true", given["agent-inject"], m.file)
		require.NotEmpty(t, given["role"], m.file)
		requireTemplates(t, m.file, given)
		requireLoginVolume(t, m.file, template.Spec, given["agent-service-account-token-volume-name"])
	}
	require.Positive(t, injected)
}

// injectorAnnotations returns the injector's annotations without their prefix.
func injectorAnnotations(all map[string]string) map[string]string {
	own := map[string]string{}
	for name, value := range all {
		if short, ok := strings.CutPrefix(name, annotationPrefix); ok {
			own[short] = value
		}
	}
	return own
}

func known(name string) bool {
	return slices.Contains(annotations, name) || slices.ContainsFunc(namedAnnotations, func(prefix string) bool {
		return strings.HasPrefix(name, prefix) && name != prefix
	})
}

// requireTemplates requires that each secret has a template that reads the secret's path, which the
// injector does not check.
func requireTemplates(t *testing.T, file string, given map[string]string) {
	t.Helper()
	const secret, template = "agent-inject-secret-", "agent-inject-template-"
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if of, ok := strings.CutPrefix(name, secret); ok {
			require.Contains(t, given, template+of, file)
			require.Contains(t, given[template+of], `secret "`+given[name]+`"`, file)
		}
		if of, ok := strings.CutPrefix(name, template); ok {
			require.Contains(t, given, secret+of, file)
		}
	}
}

// requireLoginVolume requires the volume with the token for Agent's login, without which the
// injector rejects the pod.
func requireLoginVolume(t *testing.T, file string, pod core.PodSpec, name string) {
	t.Helper()
	i := slices.IndexFunc(pod.Volumes, func(v core.Volume) bool { return v.Name == name })
	require.NotEqual(t, -1, i, "%s: no volume %q", file, name)
	require.NotNil(t, pod.Volumes[i].Projected, file)
	require.Len(t, pod.Volumes[i].Projected.Sources, 1, file)
	token := pod.Volumes[i].Projected.Sources[0].ServiceAccountToken
	require.NotNil(t, token, file)
	require.NotEmpty(t, token.Audience, file)
}
