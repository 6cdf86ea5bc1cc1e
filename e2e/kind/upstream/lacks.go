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
	var l lacks
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		l = append(l, lacks{{"SCTP sockets, which this kernel does not have", regexp.MustCompile(`\[Feature:SCTPConnectivity\]`)}}...)
	} else if err == nil {
		_ = unix.Close(fd)
	}
	return l
}
