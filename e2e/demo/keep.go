package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/internal/testnet"
)

// place is the demo's folder; there is one demo at a time on a machine.
const place = "/run/weft-demo"

// left is what a kept demo consists of.
type left struct {
	Namespaces []string `json:"namespaces"`
	Daemons    []int    `json:"daemons"`
	Cgroups    []string `json:"cgroups"`
}

// remember writes down what --clean must take down.
func remember(c *cluster.Cluster, pods []*cluster.Pod) error {
	l := left{Namespaces: []string{c.Bridge.Name, c.Outside.Name}}
	for _, n := range c.Nodes {
		l.Namespaces = append(l.Namespaces, n.NS.Name)
		l.Daemons = append(l.Daemons, n.PID())
		if n.Cgroup != "" {
			l.Cgroups = append(l.Cgroups, n.Cgroup)
		}
	}
	for _, p := range pods {
		l.Namespaces = append(l.Namespaces, p.NS.Name)
	}
	b, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(place, "demo.json"), b, 0o600); err != nil {
		return fmt.Errorf("remember the demo: %w", err)
	}
	return nil
}

// takeDown removes what a kept demo left. It can be repeated.
func takeDown() error {
	b, err := os.ReadFile(filepath.Join(place, "demo.json"))
	if errors.Is(err, os.ErrNotExist) {
		fmt.Println("No demo is up.")
		return removePlace()
	} else if err != nil {
		return fmt.Errorf("read what was left: %w", err)
	}
	var l left
	if err := json.Unmarshal(b, &l); err != nil {
		return fmt.Errorf("read what was left: %w", err)
	}
	var errs []error
	for _, pid := range l.Daemons {
		// The number may belong to somebody else by now.
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err != nil || !strings.HasPrefix(exe, place+"/") {
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
			errs = append(errs, fmt.Errorf("end daemon %d: %w", pid, err))
		}
	}
	for _, name := range l.Namespaces {
		errs = append(errs, (&testnet.NS{Name: name}).Close())
	}
	for _, dir := range l.Cgroups {
		errs = append(errs, cluster.RemoveCgroup(dir))
	}
	errs = append(errs, removePlace())
	if err := errors.Join(errs...); err != nil {
		return err
	}
	fmt.Println("The demo is taken down.")
	return nil
}

func removePlace() error {
	if err := unix.Unmount(filepath.Join(place, "bpffs"), unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return fmt.Errorf("unmount the demo's BPF file system: %w", err)
	}
	return os.RemoveAll(place)
}

// lookAround says what one can do with a kept demo.
func (s *story) lookAround() {
	n, p := s.c.Nodes[0], s.all[0]
	fmt.Printf(`
The cluster stays up. Look around (nsenter, as "ip netns exec" would hide the BPF file system):

  a node      nsenter --net=%[1]s ip -d addr
  its state   %[2]s/bin/weft status --socket %[3]s      (or endpoints, nodes; -o json)
  its log     less %[4]s
  a pod       nsenter --net=%[5]s ip route
  the wire    nsenter --net=%[1]s tcpdump -ni eth0 -T vxlan udp port 8872
  the objects ls %[6]s     (edit them: the daemons follow)

Take it down:  make demo DOWN=1
`, n.NS.Path(), place, n.Socket(), n.Path("weftd.log"), p.NS.Path(), s.c.Source)
}
