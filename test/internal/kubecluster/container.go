package kubecluster

import (
	"os/exec"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"vault-plugin-secrets-tokenbroker/internal/testing/process"
)

// command returns the command of a container, with its environment and volumes.
func (p *Pod) command(container corev1.Container) *exec.Cmd {
	mounts := make([]mount, 0, len(container.VolumeMounts))
	for _, m := range container.VolumeMounts {
		mounts = append(mounts, mount{from: p.Folder(m.Name), to: m.MountPath, isWritable: !m.ReadOnly})
	}
	env := map[string]string{}
	for _, variable := range container.Env {
		env[variable.Name] = variable.Value
		if from := variable.ValueFrom; from != nil && from.FieldRef != nil {
			env[variable.Name] = p.field(from.FieldRef.FieldPath)
		}
	}
	return p.c.sandbox(mounts, env, slices.Concat(container.Command, container.Args)...)
}

// field returns a field of the pod that the environment of a container may have.
func (p *Pod) field(path string) string {
	return map[string]string{
		"metadata.name": p.pod.Name, "metadata.namespace": p.pod.Namespace,
		"status.hostIP": p.c.address, "status.podIP": p.c.address,
	}[path]
}

// A collecting process keeps what it prints.
type collecting struct {
	*process.Process
	printed *buffer
}

func startCollecting(cmd *exec.Cmd) (collecting, error) {
	printed := &buffer{}
	cmd.Stdout, cmd.Stderr = printed, printed
	p, err := process.Start(cmd)
	return collecting{p, printed}, err
}

func (c collecting) output() string { return c.printed.String() }

type buffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
