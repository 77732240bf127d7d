//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"
)

// reader is a read of a Vault path by a manifest of examples/kubernetes.
type reader struct {
	file     string
	role     string
	account  serviceAccount
	audience string
	auth     string // the VaultAuth with the three fields above, if they are not in the manifest
	path     string
	template string // the template of an injected Agent, if there is one
}

// manifest has the fields of all kinds of manifests that describe readers.
type manifest struct {
	Kind     string
	Metadata struct{ Name, Namespace string }
	Spec     struct {
		// Deployment.
		Template struct {
			Metadata struct{ Annotations map[string]string }
			Spec     struct {
				ServiceAccountName string `yaml:"serviceAccountName"`
				Volumes            []struct {
					Name      string
					Projected struct {
						Sources []struct {
							ServiceAccountToken struct{ Audience string } `yaml:"serviceAccountToken"`
						}
					}
				}
			}
		}
		// VaultAuth.
		Kubernetes struct {
			Role           string
			ServiceAccount string `yaml:"serviceAccount"`
			Audiences      []string
		}
		// VaultDynamicSecret, of which there are two kinds.
		VaultAuthRef string `yaml:"vaultAuthRef"`
		Mount        string
		generator    `yaml:",inline"`
		// ClusterGenerator.
		Generator struct {
			VaultDynamicSecretSpec generator `yaml:"vaultDynamicSecretSpec"`
		}
		// ClusterExternalSecret.
		NamespaceSelectors []struct {
			MatchExpressions []struct {
				Key    string
				Values []string
			} `yaml:"matchExpressions"`
		} `yaml:"namespaceSelectors"`
		// ExternalSecret with a SecretStore.
		SecretStoreRef struct{ Name string } `yaml:"secretStoreRef"`
		Data           []struct {
			RemoteRef struct{ Key string } `yaml:"remoteRef"`
		}
		ExternalSecretSpec struct {
			DataFrom []struct {
				SourceRef struct {
					GeneratorRef struct{ Name string } `yaml:"generatorRef"`
				} `yaml:"sourceRef"`
			} `yaml:"dataFrom"`
		} `yaml:"externalSecretSpec"`
	}
}

// generator has the fields of the External Secrets Operator's VaultDynamicSecret, and of its SecretStore.
type generator struct {
	Path     string
	Provider struct {
		Auth  externalAuth
		Vault struct {
			Path string
			Auth externalAuth
		}
	}
}

// externalAuth is how the External Secrets Operator logs in.
type externalAuth struct {
	Kubernetes struct {
		Role              string
		ServiceAccountRef struct {
			Name      string
			Audiences []string
		} `yaml:"serviceAccountRef"`
	}
}

// read adds a read with this login to r.
func (a externalAuth) read(r reader, path string) reader {
	k := a.Kubernetes
	r.role, r.account.Name, r.audience = k.Role, k.ServiceAccountRef.Name, strings.Join(k.ServiceAccountRef.Audiences, " ")
	r.path = path
	return r
}

// read adds the read of the generator to r.
func (g generator) read(r reader) reader { return g.Provider.Auth.read(r, g.Path) }

// readers returns all readers of examples/kubernetes.
func readers(t *testing.T) []reader {
	t.Helper()
	files, err := filepath.Glob("../../examples/kubernetes/*.yaml")
	require.NoError(t, err)
	var all []reader
	auths := map[string]reader{}      // the VaultAuths, by name
	generators := map[string]reader{} // the ClusterGenerators, by name
	stores := map[string]reader{}     // the SecretStores, by name, with the path of their mounts
	for _, file := range files {
		for _, m := range manifests(t, file) {
			r := reader{file: filepath.Base(file), account: serviceAccount{Namespace: m.Metadata.Namespace}}
			switch {
			case m.Kind == "Deployment":
				all = append(all, injected(r, m)...)
			case m.Kind == "VaultAuth":
				k := m.Spec.Kubernetes
				r.role, r.account.Name, r.audience = k.Role, k.ServiceAccount, strings.Join(k.Audiences, " ")
				auths[m.Metadata.Name] = r
			case m.Kind == "VaultDynamicSecret" && m.Spec.VaultAuthRef != "":
				r.auth, r.path = m.Spec.VaultAuthRef, m.Spec.Mount+"/"+m.Spec.Path
				all = append(all, r)
			case m.Kind == "VaultDynamicSecret":
				all = append(all, m.Spec.read(r))
			case m.Kind == "SecretStore":
				stores[m.Metadata.Name] = m.Spec.Provider.Vault.Auth.read(r, m.Spec.Provider.Vault.Path)
			case m.Kind == "ExternalSecret" && m.Spec.SecretStoreRef.Name != "":
				require.Contains(t, stores, m.Spec.SecretStoreRef.Name, file)
				r := stores[m.Spec.SecretStoreRef.Name]
				r.path += "/" + m.Spec.Data[0].RemoteRef.Key
				all = append(all, r)
			case m.Kind == "ClusterGenerator":
				generators[m.Metadata.Name] = m.Spec.Generator.VaultDynamicSecretSpec.read(r)
			case m.Kind == "ClusterExternalSecret":
				name := m.Spec.ExternalSecretSpec.DataFrom[0].SourceRef.GeneratorRef.Name
				require.Contains(t, generators, name, file)
				for _, namespace := range m.Spec.NamespaceSelectors[0].MatchExpressions[0].Values {
					r := generators[name]
					r.account.Namespace = namespace
					all = append(all, r)
				}
			}
		}
	}
	for i, r := range all {
		if r.auth == "" {
			continue
		}
		auth := auths[r.auth]
		require.Equal(t, auth.account.Namespace, r.account.Namespace, "%s: no VaultAuth %q in its namespace", r.file, r.auth)
		all[i].role, all[i].account, all[i].audience = auth.role, auth.account, auth.audience
	}
	return all
}

// injected returns the readers that the injector adds to a Deployment.
func injected(r reader, m manifest) []reader {
	const prefix = "vault.hashicorp.com/"
	pod := m.Spec.Template
	r.role, r.account.Name = pod.Metadata.Annotations[prefix+"role"], pod.Spec.ServiceAccountName
	for _, v := range pod.Spec.Volumes {
		if v.Name == pod.Metadata.Annotations[prefix+"agent-service-account-token-volume-name"] {
			r.audience = v.Projected.Sources[0].ServiceAccountToken.Audience
		}
	}
	var all []reader
	for name, path := range pod.Metadata.Annotations {
		if secret, ok := strings.CutPrefix(name, prefix+"agent-inject-secret-"); ok {
			r.path, r.template = path, pod.Metadata.Annotations[prefix+"agent-inject-template-"+secret]
			all = append(all, r)
		}
	}
	return all
}

func manifests(t *testing.T, file string) []manifest {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	var all []manifest
	for decoder := yaml.NewDecoder(bytes.NewReader(content)); ; {
		var m manifest
		err := decoder.Decode(&m)
		if errors.Is(err, io.EOF) {
			return all
		}
		require.NoError(t, err, file)
		all = append(all, m)
	}
}
