// Package daemon is the node daemon: its settings, its wiring ([Run], from top to
// bottom), the loop that keeps the node at what the source and the kernel's state
// ask for, and its socket.
//
// The loop's parts: what is wanted is compiled by pure functions (self.go,
// peers.go) into the tables of tables.go; events only mark; the loop acts.
package daemon

import "github.com/weftnet/weft/internal/api"

// Version is that of this build.
func Version() string { return api.Version }
