package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/web"
)

func (c *cli) webCommand() *cobra.Command {
	var listen string
	var sockets []string
	cmd := &cobra.Command{
		Use: "web", Args: cobra.NoArgs,
		Short: "Serve a page that shows nodes, Services, their backends, addresses and drops",
		Long: `Serve a page for a browser that shows what the Weft daemon of this node knows, as it
changes: problems, the nodes and whether they answer, Services with their backends, the
addresses of load balancers, flows a second, and what is dropped and why. It only shows;
it changes nothing, and needs nothing from the Internet.

The page has no login. By default it is on loopback: whoever is on this machine can see
it, and who forwards the port (ssh -L 8087:127.0.0.1:8087). Under another address whoever
reaches that address sees it. It answers only to IP addresses and localhost as its name.

It ends with Ctrl-C, and, if standard input is a pipe, with that: by kubectl exec -i and ssh
without a terminal it does not outlive them.

With --socket more than once, one of several daemons is chosen on the page.
The daemon itself serves the same page with its setting web-address.`,
		Example: `  sudo weft web
  sudo weft web --listen '[::1]:9000'`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.web(cmd.Context(), listen, sockets) },
	}
	cmd.Flags().StringVar(&listen, "listen", web.DefaultAddress, "ADDRESS:PORT to serve the page on; port 0: one that is free")
	// In the place of the flag of all commands.
	cmd.Flags().StringArrayVar(&sockets, "socket", []string{api.DefaultSocket}, "unix socket of a daemon; may be given more than once")
	return cmd
}

// web serves the page until ctx is done.
func (c *cli) web(ctx context.Context, listen string, sockets []string) error {
	c.socket = sockets[0]
	if listen == "" { // to net.Listen that is every address of the machine, and any port
		return c.usage(errors.New("--listen is empty: give ADDRESS:PORT, for example " + web.DefaultAddress))
	}
	if err := c.someAnswer(ctx, sockets); err != nil {
		return err
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("--listen: %w: choose an address of this machine and a port that is free", err)
	}
	if at, err := netip.ParseAddrPort(l.Addr().String()); err == nil && !at.Addr().IsLoopback() {
		fmt.Fprintf(c.out, "Whoever reaches %s can see the page: it has no login.\n", at)
	}
	fmt.Fprintf(c.out, "The page is at http://%s/ until this command ends (Ctrl-C).\n", l.Addr())
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if needed(c.in) {
		go func() { // reading cannot be interrupted: at the latest the process's end ends it
			_, _ = io.Copy(io.Discard, c.in) // whatever ends it is an end
			cancel(errDetached)
		}()
	}
	err = web.Serve(ctx, l, sockets...)
	if errors.Is(context.Cause(ctx), errDetached) {
		fmt.Fprintln(c.out, "The page is gone:", errDetached)
	}
	return err
}

var errDetached = errors.New("standard input, a pipe, has ended")

// needed tells whether the page ends with standard input: if that is a pipe or a socket. It is
// what kubectl exec -i and ssh without a terminal give, and close when they end, in whatever
// way. They send no signal then, so the page would stay.
func needed(in *os.File) bool {
	info, err := in.Stat()
	return err == nil && info.Mode()&(fs.ModeNamedPipe|fs.ModeSocket) != 0
}

// someAnswer is nil if a daemon answers at one of the sockets: which others do the page
// shows.
func (c *cli) someAnswer(ctx context.Context, sockets []string) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var errs []error
	for _, s := range sockets {
		_, err := api.NewClient(s).Status(ctx)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
