// Command dockerfile runs BuildKit's checks of Dockerfiles, as `docker build --check` does, but
// without a daemon and without a registry: it takes each base image for one with an empty
// configuration. It exits with status 1 if there is any finding.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

func main() {
	status := 0
	for _, name := range os.Args[1:] {
		clean, err := lint(name)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		if err != nil || !clean {
			status = 1
		}
	}
	os.Exit(status)
}

// emptyImage resolves each image to one with an empty configuration.
type emptyImage struct{}

func (emptyImage) ResolveImageConfig(_ context.Context, ref string, _ sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	config := []byte("{}")
	return ref, digest.FromBytes(config), config, nil
}

func lint(name string) (clean bool, err error) {
	content, err := os.ReadFile(name)
	if err != nil {
		return false, err
	}
	source := &llb.SourceMap{Definition: &llb.Definition{}, Filename: name, Language: "Dockerfile", Data: content}
	results, err := dockerfile2llb.DockerfileLint(context.Background(), content, dockerfile2llb.ConvertOpt{SourceMap: source, MetaResolver: emptyImage{}})
	if err != nil {
		return false, err
	}
	for _, warning := range results.Warnings {
		if err := warning.PrintTo(os.Stderr, []*pb.SourceInfo{results.Sources[warning.Location.SourceIndex]}, nil); err != nil {
			return false, err
		}
	}
	if results.Error != nil {
		return false, fmt.Errorf("%s: %s", name, results.Error.Message)
	}
	return len(results.Warnings) == 0, nil
}
