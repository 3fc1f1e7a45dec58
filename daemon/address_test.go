package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/kebernetes/kebernetes/config"
)

// An address stays the node's as long as the machine has it; then the one that a start would choose takes its place.
func TestAddresses(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fixed bool
		// looks are what the machine has, and after ">" the address that a start would choose; and what is to be told then.
		looks []string
		want  string
	}{
		{"nothing happens", false, []string{"127.0.0.1 192.0.2.1 > 192.0.2.1", "127.0.0.1 192.0.2.1 > 192.0.2.1"}, "true true"},
		{"another comes beside it", false, []string{"192.0.2.1 > 192.0.2.1", "192.0.2.1 192.0.2.7 > 192.0.2.7"}, "true true"},
		{"it changes", false, []string{"192.0.2.1 > 192.0.2.1", "192.0.2.7 > 192.0.2.7"}, "true lost moved:192.0.2.7 true"},
		{"another comes before it goes", false, []string{"192.0.2.1 > 192.0.2.1", "192.0.2.1 192.0.2.7 > 192.0.2.7", "192.0.2.7 > 192.0.2.7"},
			"true true lost moved:192.0.2.7 true"},
		{"none for a while", false, []string{"192.0.2.1 > 192.0.2.1", "127.0.0.1 >", "127.0.0.1 >", "127.0.0.1 192.0.2.7 > 192.0.2.7"},
			"true lost false false moved:192.0.2.7 true"},
		{"it comes back", false, []string{"192.0.2.1 > 192.0.2.1", "127.0.0.1 >", "127.0.0.1 192.0.2.1 > 192.0.2.1"}, "true lost false true"},
		{"an address without a link", false, []string{"192.0.2.1 > 192.0.2.1", "127.0.0.1 > 192.0.2.9"}, "true lost false"},
		{"another one goes", false, []string{"192.0.2.1 192.0.2.7 > 192.0.2.1", "192.0.2.1 > 192.0.2.1"}, "true lost true"},
		{"a fixed one goes", true, []string{"192.0.2.1 > 192.0.2.1", "192.0.2.7 > 192.0.2.7"}, "true lost true"},
		{"twice", false, []string{"192.0.2.1 > 192.0.2.1", "192.0.2.7 > 192.0.2.7", "192.0.2.8 > 192.0.2.8"},
			"true lost moved:192.0.2.7 true lost moved:192.0.2.8 true"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var told []string
			var local []netip.Addr
			var found string
			a := newAddresses(config.Config{NodeIP: "192.0.2.1"}, slog.New(slog.DiscardHandler))
			a.local = func() ([]netip.Addr, error) { return local, nil }
			a.found = func() (netip.Addr, error) {
				if found == "" {
					return netip.Addr{}, errors.New("no route")
				}
				return netip.MustParseAddr(found), nil
			}
			a.lost = append(a.lost, func(func(netip.Addr) bool) { told = append(told, "lost") })
			if !tc.fixed {
				a.moved = append(a.moved, func(_ context.Context, to netip.Addr) error {
					told = append(told, "moved:"+to.String())
					return nil
				})
			}
			for _, look := range tc.looks {
				has, chosen, _ := strings.Cut(look, ">")
				local, found = nil, strings.TrimSpace(chosen)
				for addr := range strings.FieldsSeq(has) {
					local = append(local, netip.MustParseAddr(addr))
				}
				told = append(told, fmt.Sprint(a.look(t.Context())))
			}
			if got := strings.Join(told, " "); got != tc.want {
				t.Errorf("%s\nwant %s", got, tc.want)
			}
		})
	}
}
