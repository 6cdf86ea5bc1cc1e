package echo

import (
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
)

// serve answers on both protocols. On two addresses of one family, a datagram might be
// answered from the wrong one: a pod has one.
func serve(config net.ListenConfig) error {
	at := net.JoinHostPort("", strconv.Itoa(Port))
	tcp, err := config.Listen(context.Background(), "tcp", at)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer tcp.Close()
	udp, err := config.ListenPacket(context.Background(), "udp", at)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer udp.Close()
	ended := make(chan error, 2)
	go func() { ended <- answerDatagrams(udp) }()
	go func() { ended <- answerStreams(tcp) }()
	return <-ended
}

func answerDatagrams(udp net.PacketConn) error {
	b := make([]byte, 64<<10)
	for {
		n, from, err := udp.ReadFrom(b)
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		// Who cannot be answered counts a loss.
		_, _ = udp.WriteTo(b[:n], from)
	}
}

func answerStreams(tcp net.Listener) error {
	for {
		conn, err := tcp.Accept()
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		go func() {
			defer conn.Close()
			_, _ = io.Copy(conn, conn) // whatever ends it, the client knows
		}()
	}
}
