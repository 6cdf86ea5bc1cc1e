// Command example is two microservices in one program: user-service, and order-service
// that asks user-service by its name. See examples/README.md.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "example:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("example", flag.ContinueOnError)
	role := flags.String("role", "", "user or order")
	listen := flags.String("listen", ":8080", "address to listen on")
	user := flags.String("user", "http://user-service", "where order asks user")
	drain := flags.Duration("drain", 5*time.Second, "how long to serve on after SIGTERM, until all nodes know of it")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *role != "user" && *role != "order" {
		return fmt.Errorf("-role %q is neither user nor order", *role)
	}
	s := &service{
		name: *role + "-service", pod: os.Getenv("POD_NAME"), node: os.Getenv("NODE_NAME"),
		drain: func() <-chan time.Time { return time.After(*drain) },
	}
	if *role == "order" {
		s.user = *user
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	fmt.Println(s.name, "listens on", l.Addr())
	return s.serve(ctx, l)
}
