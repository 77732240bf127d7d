package process

import (
	"fmt"
	"io"
	"os/exec"
	"sync"
	"syscall"
)

// guardScript is the script of a shell that outlives this process, even if go test's timeout or
// kill -9 ends it. The end of its input shows that this process has ended. The shell then kills
// the process groups that are left, and removes the folders.
const guardScript = `
trap '' INT TERM HUP
folders=()
while read -r verb what; do
	case $verb in
	end) groups[what]=1 ;;
	forget) unset "groups[what]" ;;
	remove) folders+=("$what") ;;
	esac
done
for group in "${!groups[@]}"; do kill -KILL -- "-$group"; done
rm -rf -- "${folders[@]}"
`

// guard starts the shell on the first call, and returns its input.
var guard = sync.OnceValues(func() (io.Writer, error) {
	cmd := exec.Command("bash", "--noprofile", "--norc", "-c", guardScript)
	cmd.Dir = "/"
	// In its own group, the shell does not get signals to the group of this process.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start the process guard: %w", err)
	}
	return input, nil
})

// tellGuard writes a command to the guard: end or forget with a process group, or remove with a
// folder.
func tellGuard(verb string, what any) error {
	input, err := guard()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(input, verb, what)
	return err
}

// RemoveAtExit makes the guard remove a folder after this process and those that it started have
// ended, even if this process is killed.
func RemoveAtExit(folder string) error { return tellGuard("remove", folder) }
