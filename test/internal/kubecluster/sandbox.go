package kubecluster

import (
	"context"
	"maps"
	"os/exec"
	"slices"

	"vault-plugin-secrets-tokenbroker/internal/testing/process"
)

// A mount is a folder or a file of this machine in a sandbox.
type mount struct {
	from, to   string
	isWritable bool
}

// sandbox returns a command in a sandbox with its own file system: the programs of this machine, those of the cluster in
// /opt/bin, and the mounts. It shares the network of this machine, with names from the hosts file of the cluster.
func (c *Cluster) sandbox(mounts []mount, env map[string]string, args ...string) *exec.Cmd {
	options := []string{
		"--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64",
		"--ro-bind", "/proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",
		"--ro-bind", c.file("hosts"), "/etc/hosts", "--ro-bind", c.file("nsswitch.conf"), "/etc/nsswitch.conf",
		"--ro-bind", c.bin, "/opt/bin", "--chdir", "/",
		"--clearenv", "--setenv", "PATH", "/opt/bin:/usr/bin", "--setenv", "HOME", "/tmp",
	}
	for _, m := range mounts {
		bind := "--ro-bind"
		if m.isWritable {
			bind = "--bind"
		}
		options = append(options, bind, m.from, m.to)
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		options = append(options, "--setenv", name, env[name])
	}
	return newCommand("bwrap", append(append(options, "--"), args...)...)
}

// newCommand returns a command that Stop ends gracefully; the end of a context would kill it.
func newCommand(name string, args ...string) *exec.Cmd {
	return exec.CommandContext(context.Background(), name, args...)
}

// launch starts the command of a program, which runs until Stop.
func (c *Cluster) launch(name string, cmd *exec.Cmd) error {
	cmd.Stdout, cmd.Stderr = c.log, c.log
	p, err := process.Start(cmd)
	if err != nil {
		return err
	}
	c.running = append(c.running, program{p, name})
	return nil
}
