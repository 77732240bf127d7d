//go:build e2e

package e2e

import (
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
)

// serviceAccount is the service account of a pod.
type serviceAccount struct{ Namespace, Name string }

// token returns the token for an audience that Kubernetes projects into the account's pods.
func (a serviceAccount) token(t *testing.T, audience string) string {
	t.Helper()
	now := time.Now()
	token, err := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{
		"iss": "https://kubernetes.default.svc", "sub": a.username(), "aud": []string{audience},
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(10 * time.Minute).Unix(),
		"kubernetes.io": map[string]any{
			"namespace":      a.Namespace,
			"serviceaccount": map[string]any{"name": a.Name, "uid": a.uid()},
		},
	}).SignedString(privateKey())
	require.NoError(t, err)
	return token
}

func (a serviceAccount) username() string {
	return "system:serviceaccount:" + a.Namespace + ":" + a.Name
}
func (a serviceAccount) uid() string { return "uid-of-" + a.Namespace + "-" + a.Name }

// apiServer simulates the TokenReview API of a Kubernetes API server.
type apiServer struct {
	*httptest.Server
	reviewer string
}

func startAPIServer(t *testing.T) *apiServer {
	t.Helper()
	s := &apiServer{reviewer: serviceAccount{"vault", "vault-reviewer"}.token(t, "https://kubernetes.default.svc")}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /apis/authentication.k8s.io/v1/tokenreviews", s.review)
	s.Server = httptest.NewTLSServer(mux)
	t.Cleanup(s.Close)
	return s
}

// writeFiles writes the files with which Vault's auth method is configured.
func (s *apiServer) writeFiles(t *testing.T, dir string) {
	t.Helper()
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ca.crt"), certificate, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "reviewer.jwt"), []byte(s.reviewer), 0o600))
}

// review handles a TokenReview request:
// https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-review-v1/
func (s *apiServer) review(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+s.reviewer {
		http.Error(w, "the caller may not review tokens", http.StatusForbidden)
		return
	}
	var review struct {
		Spec struct {
			Token     string
			Audiences []string
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
		"status": reviewStatus(review.Spec.Token, review.Spec.Audiences),
	})
}

func reviewStatus(token string, audiences []string) map[string]any {
	var claims struct {
		jwt.RegisteredClaims
		Kubernetes struct {
			ServiceAccount struct{ UID string } `json:"serviceaccount"`
		} `json:"kubernetes.io"`
	}
	_, err := jwt.ParseWithClaims(token, &claims, func(*jwt.Token) (any, error) { return &privateKey().PublicKey, nil })
	if err != nil {
		return map[string]any{"error": err.Error()}
	}
	meant := slices.DeleteFunc(audiences, func(a string) bool { return !slices.Contains(claims.Audience, a) })
	if len(meant) == 0 {
		return map[string]any{"error": "the token is for another audience"}
	}
	return map[string]any{
		"authenticated": true, "audiences": meant,
		"user": map[string]any{"username": claims.Subject, "uid": claims.Kubernetes.ServiceAccount.UID},
	}
}
