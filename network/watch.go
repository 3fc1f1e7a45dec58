package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Watch calls changed when links or addresses of the namespace at path ("" being the process's own) may have changed, those of
// pods' links aside, and once when it listens. It returns when ctx ends, with nil, or when it can listen no more. changed
// must not block.
func Watch(ctx context.Context, path string, changed func()) error {
	at := netns.None()
	if path != "" {
		var err error
		if at, err = netns.GetFromPath(path); err != nil {
			return fmt.Errorf("open network namespace %s: %w", path, err)
		}
		defer at.Close()
	}
	socket, err := nl.SubscribeAt(at, netns.None(), unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	if err != nil {
		return fmt.Errorf("watch links: %w", err)
	}
	defer context.AfterFunc(ctx, socket.Close)()
	changed()
	for {
		messages, _, err := socket.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, os.ErrClosed):
			return fmt.Errorf("watch links: %w", err)
		case err != nil: // messages were lost
			changed()
			continue
		}
		for _, m := range messages {
			if concerns(m) {
				changed()
				break
			}
		}
	}
}

// concerns says whether a message may be about a link that the node itself uses.
func concerns(m syscall.NetlinkMessage) bool {
	if m.Header.Type != unix.RTM_NEWLINK && m.Header.Type != unix.RTM_DELLINK {
		return true
	}
	if len(m.Data) < unix.SizeofIfInfomsg || m.Data[0] == unix.AF_BRIDGE {
		return false
	}
	attrs, err := nl.ParseRouteAttr(m.Data[unix.SizeofIfInfomsg:])
	if err != nil {
		return true
	}
	for _, a := range attrs {
		if a.Attr.Type == unix.IFLA_IFNAME {
			return !isPodLink(strings.TrimRight(string(a.Value), "\x00"))
		}
	}
	return true
}
