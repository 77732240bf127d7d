package examples

import (
	"testing"

	"github.com/stretchr/testify/require"
	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
)

// The Secret and the binding name the reviewer's service account, which neither API checks.
func TestReviewerHasATokenAndMayReviewTokens(t *testing.T) {
	const token = "kubernetes.io/service-account-token"
	accounts := map[rbac.Subject]bool{}
	var bound, issued []rbac.Subject
	for _, m := range manifests(t) {
		switch object := m.object.(type) {
		case *core.ServiceAccount:
			accounts[rbac.Subject{Kind: "ServiceAccount", Namespace: object.Namespace, Name: object.Name}] = true
		case *core.Secret:
			require.EqualValues(t, token, object.Type, m.file)
			issued = append(issued, rbac.Subject{Kind: "ServiceAccount", Namespace: object.Namespace, Name: object.Annotations[core.ServiceAccountNameKey]})
		case *rbac.ClusterRoleBinding:
			require.Equal(t, rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "ClusterRole", Name: "system:auth-delegator"}, object.RoleRef, m.file)
			bound = append(bound, object.Subjects...)
		}
	}
	require.Len(t, bound, 1)
	require.Equal(t, bound, issued)
	require.True(t, accounts[bound[0]], "no service account %v", bound[0])
}
