package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

const maxHeader = 16 << 10 // bytes

// Serve serves on l until ctx is done, then lets calls under way finish, for as long as
// grace. Of s it sets what all our servers have in common.
func Serve(ctx context.Context, l net.Listener, s *http.Server, grace time.Duration) error {
	s.MaxHeaderBytes = maxHeader
	s.ConnContext = withConn
	s.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // a client that went away is no news
	ended := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		soon, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		err := s.Shutdown(soon)
		if err != nil {
			err = s.Close()
		}
		ended <- err
	})
	err := s.Serve(l)
	if !stop() {
		err = <-ended
	}
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve on %s: %w", l.Addr(), err)
	}
	return nil
}
