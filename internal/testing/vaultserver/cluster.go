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
	// nodes is how many a Cluster has: one may be missing.
	nodes = 3

	// patience is Vault's default performance_multiplier. On a busy machine, there are
	// elections that nobody caused with less.
	patience = 5
)

// A Cluster is servers with raft storage in common, one of them active.
type Cluster struct {
	Nodes []*Server

	clients []*api.Client // of each node, which give up soon
	mu      sync.Mutex
	gates   []*gate
	cutOff  map[int]bool
	paused  map[int]bool
	groups  map[int]int // node by process group, of all that there have ever been
}

// StartCluster starts a cluster, initialized and unsealed. Its output goes to log;
// environ is as for StartRaft.
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

// add adds a node, the first of all or one that joins it.
func (c *Cluster) add(ctx context.Context, binary string, log io.Writer, environ []string) error {
	s, err := prepare(ctx, binary, log, nil)
	if err != nil {
		return err
	}
	s.member = true
	// Nodes vote as soon as they have joined, and not when they have been there for a
	// while.
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

// join starts a server that is to be a node of another's cluster.
func (s *Server) join(ctx context.Context, first *Server) error {
	s.Token, s.unsealKey = first.Token, first.unsealKey
	client, err := s.awake(ctx)
	if err != nil {
		return err
	}
	// With two nodes, the first may lose its office for a moment.
	if err := s.await(ctx, func() bool {
		_, err := client.Sys().RaftJoinWithContext(ctx, &api.RaftJoinRequest{LeaderAPIAddr: first.Address})
		return err == nil
	}); err != nil {
		return err
	}
	// The first key has it join, and unseals it when it has joined: once, as a second
	// one meanwhile has it run the node twice over.
	if _, err := client.Sys().UnsealWithContext(ctx, s.unsealKey); err != nil {
		return err
	}
	return s.await(ctx, func() bool {
		health, err := client.Sys().HealthWithContext(ctx)
		return err == nil && !health.Sealed
	})
}

// note notes which process group is a node.
func (c *Cluster) note(group, node int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.groups[group] = node
}

// NodeAt is the node that is at the other end of a connection, or one of its plugins.
func (c *Cluster) NodeAt(conn net.Conn) (node int, found bool) { return c.nodeOf(c.groupAt(conn)) }

// groupAt is the process group at the other end of a connection; zero if it is none of
// a node's, or not any more.
func (c *Cluster) groupAt(conn net.Conn) int {
	c.mu.Lock()
	groups := slices.Collect(maps.Keys(c.groups))
	c.mu.Unlock()
	group, _ := process.Peer(conn, groups)
	return group
}

// nodeOf is the node that a process group is, or was.
func (c *Cluster) nodeOf(group int) (node int, found bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	node, found = c.groups[group]
	return node, found
}

// Leader is the node that all which are connected with each other take for the active
// one, and that says so itself; none if they do not agree.
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

// Settle waits until all nodes vote, and have one leader.
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

// Pause stops a node and its plugins in the middle of what they do, as a machine that
// is suspended, and Resume lets them go on.
func (c *Cluster) Pause(node int) error {
	c.paused[node] = true
	return syscall.Kill(-c.Nodes[node].process.ID(), syscall.SIGSTOP)
}

// Resume undoes Pause.
func (c *Cluster) Resume(node int) error {
	delete(c.paused, node)
	return syscall.Kill(-c.Nodes[node].process.ID(), syscall.SIGCONT)
}

// Stop ends all nodes, and removes what they left.
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
