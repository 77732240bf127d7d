// Command dockerfile runs BuildKit's checks of a Dockerfile, as `docker build --check` does,
// but without a daemon. It exits with status 1 if there is any finding.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/solver/pb"
)

func main() {
	clean, err := lint(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if err != nil || !clean {
		os.Exit(1)
	}
}

func lint(name string) (clean bool, err error) {
	content, err := os.ReadFile(name)
	if err != nil {
		return false, err
	}
	source := &llb.SourceMap{Definition: &llb.Definition{}, Filename: name, Language: "Dockerfile", Data: content}
	results, err := dockerfile2llb.DockerfileLint(context.Background(), content, dockerfile2llb.ConvertOpt{SourceMap: source})
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
