package bpf

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func FuzzSockDiagAnswers(f *testing.F) {
	message := func(kind uint16, body ...byte) []byte {
		b := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
		b = binary.NativeEndian.AppendUint16(b, kind)
		return append(append(b, make([]byte, 10)...), body...)
	}
	f.Add(message(sockDiagByFamily, make([]byte, 72)...))
	f.Add(message(unix.NLMSG_ERROR, 0xfe, 0xff, 0xff, 0xff))
	f.Add(message(unix.NLMSG_DONE, 0, 0, 0, 0))
	f.Add(append(message(sockDiagByFamily, 1), message(unix.NLMSG_DONE)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		total := 0
		done, err := answers(b, func(body []byte) error {
			total += unix.NLMSG_HDRLEN + len(body)
			return nil
		})
		if total > len(b) {
			t.Errorf("%d bytes of messages in %d", total, len(b))
		}
		if err != nil && !done {
			t.Errorf("not done, and error %v", err)
		}
	})
}

func FuzzHighestCgroup(f *testing.F) {
	f.Add("30 24 0:26 /../.. /sys\\040fs rw - cgroup2 cgroup2 rw\n")
	f.Add("30 24 0:26 / / - cgroup2 \n\\")
	f.Fuzz(func(t *testing.T, mounts string) {
		path, err := highestCgroup(strings.NewReader(mounts))
		if err == nil && path == "" || errors.Is(err, ErrNoCgroup) && path != "" {
			t.Errorf("%q, error %v", path, err)
		}
	})
}
