package daemon

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/weftnet/weft/internal/web"
)

// servePage serves the page of `weft web`, if it is wanted, until ctx is done. It asks by
// the socket, as the command does: without it nothing of it is in memory.
func (n *node) servePage(ctx context.Context) error {
	if n.cfg.WebAddress == "" {
		return nil
	}
	l, err := net.Listen("tcp", n.cfg.WebAddress)
	if err != nil {
		return fmt.Errorf("web-address: %w: choose an address of this node and a port that is free", err)
	}
	if at, err := netip.ParseAddrPort(l.Addr().String()); err == nil && !at.Addr().IsLoopback() {
		n.log.Warn("the page is not on loopback, and has no login: whoever reaches it sees it", "address", at.String())
	}
	return web.Serve(ctx, l, n.cfg.Socket)
}
