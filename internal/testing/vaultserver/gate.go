package vaultserver

import (
	"context"
	"io"
	"net"
	"sync"
)

// A gate is a proxy in front of the cluster port of a node, which advertises the address of the
// gate to its peers. The gate drops connections from or to a node that is cut off.
type gate struct {
	cluster  *Cluster
	node     int
	target   string
	listener net.Listener

	passing sync.WaitGroup
	mu      sync.Mutex
	open    map[net.Conn]int // process group of the peer; zero if it has ended
}

func (c *Cluster) openGate(ctx context.Context, node int, target string) (*gate, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	g := &gate{cluster: c, node: node, target: target, listener: listener, open: map[net.Conn]int{}}
	g.passing.Go(g.serve)
	return g, nil
}

func (g *gate) address() string { return g.listener.Addr().String() }

func (g *gate) serve() {
	for {
		conn, err := g.listener.Accept()
		if err != nil {
			return // the gate is closed
		}
		g.passing.Go(func() { g.pass(conn) })
	}
}

// pass forwards a connection, unless it is from or to a node that is cut off.
func (g *gate) pass(conn net.Conn) {
	defer drop(conn)
	from := g.cluster.groupAt(conn)
	onward, err := (&net.Dialer{}).DialContext(context.Background(), "tcp4", g.target)
	if err != nil {
		return // the node is down
	}
	defer drop(onward)
	if !g.admit(conn, from) {
		return
	}
	defer g.leave(conn)
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(conn, onward)
		drop(conn)
	})
	_, _ = io.Copy(onward, conn)
	drop(onward)
	back.Wait()
}

// drop closes a connection and ignores errors.
func drop(conn net.Conn) { _ = conn.Close() }

func (g *gate) admit(conn net.Conn, from int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	node, known := g.cluster.nodeOf(from)
	if g.cluster.isCutOff(g.node) || known && g.cluster.isCutOff(node) {
		return false
	}
	g.open[conn] = from
	return true
}

func (g *gate) leave(conn net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.open, conn)
}

// drop closes the connections from a node, or all connections if the node is the gate's own.
func (g *gate) drop(node int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for conn, group := range g.open {
		if from, known := g.cluster.nodeOf(group); node == g.node || known && node == from {
			drop(conn)
		}
	}
}

func (g *gate) close() {
	g.listener.Close()
	g.drop(g.node)
	g.passing.Wait()
}

// CutOff cuts the cluster traffic between a node and its peers. The API of the node stays
// reachable.
func (c *Cluster) CutOff(node int) {
	c.mu.Lock()
	c.cutOff[node] = true
	c.mu.Unlock()
	for _, g := range c.gates {
		g.drop(node)
	}
}

// Reconnect undoes CutOff.
func (c *Cluster) Reconnect(node int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.cutOff, node)
}

func (c *Cluster) isCutOff(node int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cutOff[node]
}
