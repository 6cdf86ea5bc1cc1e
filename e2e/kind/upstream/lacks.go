package upstream

import (
	"errors"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// lacks are things that this machine's kernel does not have, and the specs that need them.
type lacks []struct {
	what  string
	specs *regexp.Regexp
}

// needs tells what of the missing things a spec needs.
func (l lacks) needs(spec string) (what string, ok bool) {
	for _, m := range l {
		if m.specs.MatchString(spec) {
			return m.what, true
		}
	}
	return "", false
}

// skip is a regular expression for all that needs something missing; empty: nothing does.
func (l lacks) skip() string {
	var all []string
	for _, m := range l {
		all = append(all, m.specs.String())
	}
	return strings.Join(all, "|")
}

// lacking looks at this machine's kernel, which is the nodes' too.
func lacking() lacks {
	if SCTP() {
		return nil
	}
	return lacks{{sctpSockets, regexp.MustCompile(`\[Feature:SCTPConnectivity\]`)}}
}

// sctpSockets is what is missing where [SCTP] is false.
const sctpSockets = "SCTP sockets, which this kernel does not have"

// SCTP tells whether this machine's kernel, which is the nodes' too, has SCTP sockets.
func SCTP() bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP)
	if err == nil {
		_ = unix.Close(fd)
	}
	return !errors.Is(err, unix.EPROTONOSUPPORT)
}
