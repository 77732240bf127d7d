// Command gitlab-secret reads a secret for a job as GitLab Runner does, with the Runner's own packages. The tests give it what
// GitLab sends to the Runner for an entry of a job's secrets, as JSON on its standard input. It prints the value.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"

	"gitlab.com/gitlab-org/gitlab-runner/helpers/vault/auth_methods"
	"gitlab.com/gitlab-org/gitlab-runner/helpers/vault/service"
)

// A secret is the part of a job's secrets that is for Vault.
type secret struct {
	Server struct {
		URL  string `json:"url"`
		Auth struct {
			Name string            `json:"name"`
			Path string            `json:"path"`
			Data auth_methods.Data `json:"data"`
		} `json:"auth"`
	} `json:"server"`
	Engine struct {
		Name string `json:"name"`
		Path string `json:"path"`
	} `json:"engine"`
	Path  string `json:"path"`
	Field string `json:"field"`
}

func (s *secret) AuthName() string            { return s.Server.Auth.Name }
func (s *secret) AuthPath() string            { return s.Server.Auth.Path }
func (s *secret) AuthData() auth_methods.Data { return s.Server.Auth.Data }
func (s *secret) EngineName() string          { return s.Engine.Name }
func (s *secret) EnginePath() string          { return s.Engine.Path }
func (s *secret) SecretPath() string          { return s.Path }
func (s *secret) SecretField() string         { return s.Field }

func main() {
	log.SetFlags(0)
	var s secret
	if err := json.NewDecoder(os.Stdin).Decode(&s); err != nil {
		log.Fatal(err)
	}
	vault, err := service.NewVault(s.Server.URL, "", &s)
	if err != nil {
		log.Fatal(err)
	}
	value, err := vault.GetField(&s, &s)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(value)
}
