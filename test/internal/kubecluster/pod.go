package kubecluster

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"

	"vault-plugin-secrets-tokenbroker/internal/testing/process"
)

// Pods returns the pods of a namespace with a label, such as app=web.
func (c *Cluster) Pods(ctx context.Context, namespace, label string) ([]corev1.Pod, error) {
	var list corev1.PodList
	err := c.Get(ctx, "/api/v1/namespaces/"+namespace+"/pods?labelSelector="+url.QueryEscape(label), &list)
	return list.Items, err
}

// A Pod is a pod whose containers run on this machine.
type Pod struct {
	c        *Cluster
	pod      corev1.Pod
	dir      string
	stopping chan struct{} // closed by Stop
	kept     []chan error  // the results of the started containers
	restarts atomic.Int32
}

// restartDelay is how long a kubelet waits before it restarts a container for the first time.
const restartDelay = 10 * time.Second

// Schedule creates the volumes of a pod.
func (c *Cluster) Schedule(ctx context.Context, pod corev1.Pod) (*Pod, error) {
	p := &Pod{c: c, pod: pod, dir: c.file(string(pod.UID)), stopping: make(chan struct{})}
	return p, p.fillVolumes(ctx)
}

// fillVolumes creates the volumes that do not exist, and writes the files of all.
func (p *Pod) fillVolumes(ctx context.Context) error {
	for _, volume := range p.pod.Spec.Volumes {
		if err := os.MkdirAll(p.Folder(volume.Name), 0o700); err != nil {
			return err
		}
		if err := p.fill(ctx, volume); err != nil {
			return fmt.Errorf("volume %s: %w", volume.Name, err)
		}
	}
	return nil
}

// Folder returns the folder of a volume on this machine.
func (p *Pod) Folder(volume string) string { return filepath.Join(p.dir, volume) }

// fill writes the files of a volume.
func (p *Pod) fill(ctx context.Context, volume corev1.Volume) error {
	switch {
	case volume.EmptyDir != nil:
		return nil
	case volume.Secret != nil:
		var secret corev1.Secret
		if err := p.c.Get(ctx, "/api/v1/namespaces/"+p.pod.Namespace+"/secrets/"+volume.Secret.SecretName, &secret); err != nil {
			return err
		}
		return p.write(volume.Name, secret.Data)
	case volume.Projected != nil:
		for _, source := range volume.Projected.Sources {
			files, err := p.project(ctx, source)
			if err == nil {
				err = p.write(volume.Name, files)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	return errors.New("these tests have no volumes of its kind")
}

func (p *Pod) write(volume string, files map[string][]byte) error {
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(p.Folder(volume), name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// project returns the files of a source of a projected volume.
func (p *Pod) project(ctx context.Context, source corev1.VolumeProjection) (map[string][]byte, error) {
	if token := source.ServiceAccountToken; token != nil {
		jwt, err := p.c.accountToken(ctx, p.pod.Namespace, p.pod.Spec.ServiceAccountName, authenticationv1.TokenRequestSpec{
			Audiences: []string{token.Audience}, ExpirationSeconds: token.ExpirationSeconds,
			BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: p.pod.Name, UID: p.pod.UID},
		})
		return map[string][]byte{token.Path: []byte(jwt)}, err
	}
	return nil, errors.New("these tests project only tokens of service accounts")
}

// accountToken returns a token of a service account.
func (c *Cluster) accountToken(ctx context.Context, namespace, account string, spec authenticationv1.TokenRequestSpec) (string, error) {
	var answer authenticationv1.TokenRequest
	err := c.Post(ctx, "/api/v1/namespaces/"+namespace+"/serviceaccounts/"+account+"/token", authenticationv1.TokenRequest{Spec: spec}, &answer)
	return answer.Status.Token, err
}

// Run runs a container of the pod, as it is specified, until it ends. It returns what the container has printed.
func (p *Pod) Run(ctx context.Context, container string) (string, error) {
	spec, err := p.container(container)
	if err != nil {
		return "", err
	}
	cmd := p.command(spec)
	running, err := startCollecting(cmd)
	if err != nil {
		return "", err
	}
	select {
	case <-running.Ended():
	case <-ctx.Done():
		return running.output(), errors.Join(ctx.Err(), running.StopGroup())
	}
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		err = fmt.Errorf("the container %s has ended with status %d", container, code)
	}
	return running.output(), err
}

// Start starts a container of the pod, as it is specified. Until Stop, it restarts the container after each end, as a kubelet
// does.
func (p *Pod) Start(container string) error {
	spec, err := p.container(container)
	if err != nil {
		return err
	}
	running, err := p.start(spec)
	if err != nil {
		return err
	}
	result := make(chan error, 1)
	p.kept = append(p.kept, result)
	go func() { result <- p.keep(spec, running) }()
	return nil
}

func (p *Pod) start(spec corev1.Container) (*process.Process, error) {
	cmd := p.command(spec)
	cmd.Stdout, cmd.Stderr = p.c.log, p.c.log
	return process.Start(cmd)
}

// keep restarts a container after each end, with new tokens of its service account. It returns after Stop.
func (p *Pod) keep(spec corev1.Container, running *process.Process) error {
	for {
		select {
		case <-p.stopping:
			return running.StopGroup()
		case <-running.Ended():
		}
		select {
		case <-p.stopping:
			return nil
		case <-time.After(restartDelay):
		}
		p.restarts.Add(1)
		if err := p.fillVolumes(context.Background()); err != nil {
			return err
		}
		var err error
		if running, err = p.start(spec); err != nil {
			return err
		}
	}
}

// Restarts returns how often containers of the pod have been restarted.
func (p *Pod) Restarts() int { return int(p.restarts.Load()) }

// Stop ends the containers of the pod, and removes its volumes.
func (p *Pod) Stop() error {
	close(p.stopping)
	var failures []error
	for _, result := range p.kept {
		failures = append(failures, <-result)
	}
	return errors.Join(append(failures, os.RemoveAll(p.dir))...)
}

func (p *Pod) container(name string) (corev1.Container, error) {
	for _, container := range slices.Concat(p.pod.Spec.InitContainers, p.pod.Spec.Containers) {
		if container.Name == name {
			return container, nil
		}
	}
	return corev1.Container{}, fmt.Errorf("the pod %s has no container %s", p.pod.Name, name)
}
