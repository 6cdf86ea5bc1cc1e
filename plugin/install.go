package plugin

import (
	"context"
	"log/slog"
)

// InstallOptions says what is installed where. All but Socket and StateDir is needed.
type InstallOptions struct {
	Binary   string // the weft-cni to install
	BinDir   string // e.g. /opt/cni/bin
	ConfDir  string // e.g. /etc/cni/net.d
	Socket   string // of the daemon; empty: the default
	StateDir string // of the daemon; empty: the default
}

// Install writes binary and conflist.
func Install(o InstallOptions) error { return nil }

// Watch keeps what Install wrote until ctx is done; report gets each change of the problem, nil when well.
func Watch(ctx context.Context, o InstallOptions, log *slog.Logger, report func(error)) error {
	<-ctx.Done()
	return nil
}

// Uninstall removes what Install wrote, succeeding if it is not there.
func Uninstall(o InstallOptions) error { return nil }
