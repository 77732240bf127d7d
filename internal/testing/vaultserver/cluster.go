package vaultserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-tokenbroker/internal/testing/process"
)

const (
	// nodes is the number of nodes of a Cluster, which works without one of them.
	nodes = 3

	// patience is Vault's default performance_multiplier. With a lower value, a busy machine
	// causes elections.
	patience = 5
)

// A Cluster is a set of servers with integrated (raft) storage, one of which is active.
type Cluster struct {
	Nodes []*Server

	clients []*api.Client // by node, with a short timeout
	mu      sync.Mutex
	gates   []*gate
	cutOff  map[int]bool
	paused  map[int]bool
	groups  map[int]int // node by process group, including groups that have ended
}

// StartCluster starts a cluster, initialized and unsealed. The output of its servers goes to
// log. environ is added to their environment, as by StartDev.
func StartCluster(ctx context.Context, binary string, log io.Writer, environ ...string) (*Cluster, error) {
	return attempt(func() (*Cluster, error) {
		c := &Cluster{cutOff: map[int]bool{}, paused: map[int]bool{}, groups: map[int]int{}}
		for range nodes {
			if err := c.add(ctx, binary, log, environ); err != nil {
				return nil, errors.Join(err, c.Stop())
			}
		}
		if err := c.Settle(ctx); err != nil {
			return nil, errors.Join(err, c.Stop())
		}
		return c, nil
	})
}

// add adds a node. The first node initializes the cluster, and the others join it.
func (c *Cluster) add(ctx context.Context, binary string, log io.Writer, environ []string) error {
	s, err := prepare(ctx, binary, log, nil)
	if err != nil {
		return err
	}
	s.member = true
	// Without autopilot, a node votes as soon as it has joined.
	s.environ = append([]string{"VAULT_RAFT_AUTOPILOT_DISABLE=true"}, environ...)
	node := len(c.Nodes)
	s.started = func(group int) { c.note(group, node) }
	c.Nodes = append(c.Nodes, s)
	g, err := c.openGate(ctx, node, s.ports.cluster)
	if err != nil {
		return err
	}
	c.gates = append(c.gates, g)
	if err := s.configureRaft(ctx, fmt.Sprint("node-", node), g.address(), patience); err != nil {
		return err
	}
	if node == 0 {
		err = s.initialize(ctx)
	} else {
		err = s.join(ctx, c.Nodes[0])
	}
	if err != nil {
		return err
	}
	client, err := s.Client()
	if err != nil {
		return err
	}
	client.SetClientTimeout(time.Second)
	c.clients = append(c.clients, client)
	return nil
}

// join starts a server as a node of the cluster of first.
func (s *Server) join(ctx context.Context, first *Server) error {
	s.Token, s.unsealKey = first.Token, first.unsealKey
	client, err := s.awake(ctx)
	if err != nil {
		return err
	}
	// With two nodes, the first may lose the leadership for a moment.
	if err := s.await(ctx, func() bool {
		_, err := client.Sys().RaftJoinWithContext(ctx, &api.RaftJoinRequest{LeaderAPIAddr: first.Address})
		return err == nil
	}); err != nil {
		return err
	}
	// The key starts the join, and unseals the node when it has joined. Send it only once,
	// because a second key in the meantime makes the server run the node twice.
	if _, err := client.Sys().UnsealWithContext(ctx, s.unsealKey); err != nil {
		return err
	}
	return s.await(ctx, func() bool {
		health, err := client.Sys().HealthWithContext(ctx)
		return err == nil && !health.Sealed
	})
}

// note records the process group of a node.
func (c *Cluster) note(group, node int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.groups[group] = node
}

// NodeAt returns the node that, itself or through one of its plugins, has the other end of a
// connection.
func (c *Cluster) NodeAt(conn net.Conn) (node int, found bool) { return c.nodeOf(c.groupAt(conn)) }

// groupAt returns the process group at the other end of a connection, or zero if it is not that
// of a node or has ended.
func (c *Cluster) groupAt(conn net.Conn) int {
	c.mu.Lock()
	groups := slices.Collect(maps.Keys(c.groups))
	c.mu.Unlock()
	group, _ := process.Peer(conn, groups)
	return group
}

// nodeOf returns the node of a process group, which may have ended.
func (c *Cluster) nodeOf(group int) (node int, found bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	node, found = c.groups[group]
	return node, found
}

// Leader returns the active node, and whether there is one on which all connected nodes,
// including itself, agree.
func (c *Cluster) Leader(ctx context.Context) (node int, agreed bool) {
	node = -1
	var address string
	for i, s := range c.Nodes {
		if s.process == nil || c.isCutOff(i) || c.paused[i] {
			continue
		}
		leader, err := c.clients[i].Sys().LeaderWithContext(ctx)
		if err != nil || leader.LeaderAddress == "" || address != "" && leader.LeaderAddress != address {
			return 0, false
		}
		address = leader.LeaderAddress
		if leader.IsSelf {
			node = i
		}
	}
	return node, node >= 0 && c.Nodes[node].Address == address
}

// Settle waits until all nodes vote and agree on a leader.
func (c *Cluster) Settle(ctx context.Context) error {
	return c.Nodes[0].await(ctx, func() bool {
		leader, agreed := c.Leader(ctx)
		if !agreed {
			return false
		}
		config, err := c.clients[leader].Logical().ReadWithContext(ctx, "sys/storage/raft/configuration")
		if err != nil {
			return false
		}
		voters := 0
		servers, _ := config.Data["config"].(map[string]any)["servers"].([]any)
		for _, server := range servers {
			if server.(map[string]any)["voter"] == true {
				voters++
			}
		}
		return voters == nodes
	})
}

// Pause suspends the processes of a node and of its plugins, like a suspended machine. Resume
// continues them.
func (c *Cluster) Pause(node int) error {
	c.paused[node] = true
	return syscall.Kill(-c.Nodes[node].process.ID(), syscall.SIGSTOP)
}

// Resume undoes Pause.
func (c *Cluster) Resume(node int) error {
	delete(c.paused, node)
	return syscall.Kill(-c.Nodes[node].process.ID(), syscall.SIGCONT)
}

// Stop stops all nodes and removes their files.
func (c *Cluster) Stop() error {
	var failures []error
	for _, s := range c.Nodes {
		failures = append(failures, s.Stop())
	}
	for _, g := range c.gates {
		g.close()
	}
	return errors.Join(failures...)
}
