package process

import (
	"net"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPeerReturnsTheProcessGroup(t *testing.T) {
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	_, port, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)
	caller, err := Start(exec.CommandContext(t.Context(), "bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/"+port+"; sleep 1d"))
	require.NoError(t, err)
	t.Cleanup(func() { KillGroup(caller.ID()) })

	conn, err := listener.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, conn.Close()) })
	group, err := Peer(conn, []int{caller.ID()})
	require.NoError(t, err)
	assert.Equal(t, caller.ID(), group)
	_, err = Peer(conn, []int{1})
	require.Error(t, err, "another group does not have the connection")

	require.NoError(t, caller.Stop())
	KillGroup(caller.ID()) // the sleep, which has the connection too
	assert.Eventually(t, func() bool { _, err := Peer(conn, []int{caller.ID()}); return err != nil }, time.Minute, 10*time.Millisecond, "the caller has ended")
}
