// Package nft is one nftables table of ours and the connection that writes it. What the table holds is its user's matter. Only proxy
// and network/policy import it.
package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// Chunk is how many elements go into one message: its length has 16 bits, and an element takes 130 bytes at most.
	Chunk = 400
	// elementSize is more than an element takes, messageSize more than a message without its elements does, a rule of several
	// lookups included, and answerSize more memory than the kernel counts for an answer.
	elementSize, messageSize, answerSize = 160, 1 << 10, 1 << 10
	// kernelTime bounds a transaction; a hundred thousand elements take a second.
	kernelTime = time.Minute
)

// Table is a table of family inet. For one goroutine at a time.
type Table struct {
	*nftables.Table
	netns *os.File // nil for the process's own

	// The connection lasts: to close one makes the kernel wait until all that transactions removed is freed, 15 ms here.
	conn   *nftables.Conn
	socket *netlink.Conn // of conn
	sends  int           // bytes that socket's buffers have room for
	takes  int
}

// Open returns the table of a name in the network namespace at a path; "" means the process's own. The kernel need not have it.
func Open(name, netNS string) (*Table, error) {
	t := &Table{Table: &nftables.Table{Name: name, Family: unix.NFPROTO_INET}}
	if netNS != "" {
		var err error
		if t.netns, err = os.Open(netNS); err != nil {
			return nil, fmt.Errorf("open network namespace: %w", err)
		}
	}
	return t, nil
}

// NetNS is the descriptor of the table's network namespace, false for the process's own. It is valid until Close.
func (t *Table) NetNS() (fd int, ok bool) {
	if t.netns == nil {
		return 0, false
	}
	return int(t.netns.Fd()), true
}

// Connect returns the connection, with room for a transaction of so many elements and other messages: the kernel takes a transaction
// only as one datagram, and answers each message of it.
func (t *Table) Connect(elements, messages int) (*nftables.Conn, error) {
	if t.conn == nil {
		fd, _ := t.NetNS()
		conn, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(fd), nftables.WithSockOptions(func(c *netlink.Conn) error {
			t.socket, t.sends, t.takes = c, 0, 0
			return nil
		}))
		if err != nil {
			return nil, fmt.Errorf("open nftables: %w", err)
		}
		t.conn = conn
	}
	messages += elements / Chunk
	sends, takes := 1<<19+elements*elementSize+messages*messageSize, 1<<18+messages*answerSize
	if sends > t.sends || takes > t.takes {
		t.sends, t.takes = max(sends, t.sends), max(takes, t.takes)
		if err := errors.Join(t.socket.SetWriteBuffer(t.sends), t.socket.SetReadBuffer(t.takes)); err != nil {
			return nil, fmt.Errorf("make room for nftables: %w", err)
		}
	}
	if err := t.socket.SetDeadline(time.Now().Add(kernelTime)); err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return t.conn, nil
}

// HangUp lets the connection go. After an error it must not be used again: answers of the kernel may still be in it.
func (t *Table) HangUp() {
	if t.conn != nil {
		t.conn.CloseLasting()
		t.conn, t.socket = nil, nil
	}
}

// Close lets connection and namespace go. What the kernel holds stays.
func (t *Table) Close() {
	t.HangUp()
	if t.netns != nil {
		t.netns.Close()
		t.netns = nil
	}
}

// Empty queues that the table be there with nothing in it.
func (t *Table) Empty(conn *nftables.Conn) {
	conn.AddTable(t.Table) // the next line fails where there is none
	conn.DelTable(t.Table)
	conn.AddTable(t.Table)
}

// Remove deletes the table, if there is one.
func (t *Table) Remove() error {
	conn, err := t.Connect(0, 0)
	if err != nil {
		return err
	}
	conn.AddTable(t.Table)
	conn.DelTable(t.Table)
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("remove nftables table %s: %w", t.Name, err)
	}
	return nil
}

// InChunks queues elements of a set by do, in portions of one message.
func InChunks(set *nftables.Set, elements []nftables.SetElement, do func(*nftables.Set, []nftables.SetElement) error) error {
	for len(elements) > 0 {
		n := min(len(elements), Chunk)
		if err := do(set, elements[:n]); err != nil {
			return fmt.Errorf("elements of %s: %w", set.Name, err)
		}
		elements = elements[n:]
	}
	return nil
}

// Native32 is a number as the kernel's registers hold it.
func Native32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
