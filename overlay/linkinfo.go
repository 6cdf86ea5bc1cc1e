package overlay

import "golang.org/x/sys/unix"

// linkInfo asks for devices by ioctl, for name and MTU each once. A netlink answer for one
// device is some kilobytes, and package net asks for all of them; on a node with
// hundreds of pods that is what would cost most here.
type linkInfo struct {
	sock  int
	names map[int]string
	mtus  map[string]int
}

func newLinkInfo() *linkInfo {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		s = -1 // then no device exists
	}
	return &linkInfo{sock: s, names: map[int]string{}, mtus: map[string]int{}}
}

// LinkIndex is the index of a device, 0 if there is none.
func LinkIndex(name string) int {
	l := newLinkInfo()
	defer l.close()
	return l.index(name)
}

// LinkName is the name of a device, empty if there is none.
func LinkName(index int) string {
	l := newLinkInfo()
	defer l.close()
	return l.name(index)
}

func (l *linkInfo) close() {
	if l.sock >= 0 {
		unix.Close(l.sock)
	}
}

// name returns the name of a device, empty if there is none.
func (l *linkInfo) name(index int) string {
	if name, ok := l.names[index]; ok {
		return name
	}
	name := ""
	if ifr, err := unix.NewIfreq(""); err == nil {
		ifr.SetUint32(uint32(index))
		if unix.IoctlIfreq(l.sock, unix.SIOCGIFNAME, ifr) == nil {
			name = ifr.Name()
		}
	}
	l.names[index] = name
	return name
}

// index returns the index of a device, 0 if there is none.
func (l *linkInfo) index(name string) int { return int(l.ask(name, unix.SIOCGIFINDEX)) }

// mtu returns the MTU of a device, 0 if there is none.
func (l *linkInfo) mtu(name string) int {
	mtu, ok := l.mtus[name]
	if !ok {
		mtu = int(l.ask(name, unix.SIOCGIFMTU))
		l.mtus[name] = mtu
	}
	return mtu
}

// flags returns the flags of a device (IFF_…), 0 if there is none.
func (l *linkInfo) flags(name string) uint32 { return l.ask(name, unix.SIOCGIFFLAGS) & 0xffff }

func (l *linkInfo) ask(name string, what uint) uint32 {
	ifr, err := unix.NewIfreq(name)
	if err != nil || name == "" || unix.IoctlIfreq(l.sock, what, ifr) != nil {
		return 0
	}
	return ifr.Uint32()
}
