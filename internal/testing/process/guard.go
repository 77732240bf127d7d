package process

import (
	"fmt"
	"io"
	"os/exec"
	"sync"
	"syscall"
)

// guardScript is a shell that outlives this process however it ends: by a signal, by
// go test's own limit, by kill -9. It then ends the process groups and removes the
// folders that are left.
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

// guard starts the shell, once, and returns its input, which ends with this process.
var guard = sync.OnceValues(func() (io.Writer, error) {
	cmd := exec.Command("bash", "--noprofile", "--norc", "-c", guardScript)
	cmd.Dir = "/"
	// No signal to this process's group reaches it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start the guard of processes: %w", err)
	}
	return input, nil
})

func tellGuard(verb string, what any) error {
	input, err := guard()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(input, verb, what)
	return err
}

// RemoveAtExit has a folder removed when this process ends, however it does, after the
// processes that are left.
func RemoveAtExit(folder string) error { return tellGuard("remove", folder) }
