package overlay

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/coreos/go-iptables/iptables"
)

// Back ends of iptables: rules in nf_tables, or in the older x_tables.
const (
	backendNFT    = "nft"
	backendLegacy = "legacy"
)

func otherBackend(b string) string {
	if b == backendNFT {
		return backendLegacy
	}
	return backendNFT
}

// ErrNoIptables: a command of iptables is not installed.
var ErrNoIptables = errors.New("not found: install the package iptables")

// choose decides on the back end: the one in which the kubelet has left its mark,
// else the one in use so far, else the one with more rules of others, else what
// the command iptables is. Two back ends at work on one node would each see half
// of the rules.
func (c *Chains) choose() error {
	hint, err := c.kubelet()
	switch {
	case err != nil:
		return fmt.Errorf("choose the back end of iptables: %w", err)
	case hint != "":
		c.backend = hint
	case c.backend == "":
		b, err := c.guess()
		if err != nil {
			return fmt.Errorf("choose the back end of iptables: %w", err)
		}
		c.backend = b
	}
	return nil
}

// kubelet returns the back end in which the kubelet has made the chains that it
// makes for this very purpose (KEP-3178), empty if in none.
func (c *Chains) kubelet() (string, error) {
	for _, chain := range []string{"KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"} {
		for _, b := range []string{backendNFT, backendLegacy} {
			for _, v6 := range []bool{false, true} {
				if ok, err := c.chainExists(b, v6, "mangle", chain); err != nil {
					return "", err
				} else if ok {
					return b, nil
				}
			}
		}
	}
	return "", nil
}

// guess decides without the kubelet.
func (c *Chains) guess() (string, error) {
	inNFT, err := nftRules()
	if err != nil {
		return "", err
	}
	inLegacy, err := c.legacyRules()
	if err != nil {
		return "", err
	}
	if inNFT > inLegacy {
		return backendNFT, nil
	}
	if inLegacy > inNFT {
		return backendLegacy, nil
	}
	if path, err := findCommand("iptables"); err == nil {
		return backendOf(path)
	}
	for _, b := range []string{backendNFT, backendLegacy} {
		if _, err := findCommand("iptables-" + b); err == nil {
			return b, nil
		}
	}
	return "", fmt.Errorf("command iptables %w", ErrNoIptables)
}

// legacyRules counts the rules in the legacy tables, without those in our chains.
func (c *Chains) legacyRules() (int, error) {
	n := 0
	for _, v6 := range []bool{false, true} {
		tables, err := legacyTables(v6)
		if err != nil {
			return 0, err
		}
		if len(tables) == 0 {
			continue
		}
		t, err := c.tool(backendLegacy, v6)
		if errors.Is(err, ErrNoIptables) {
			continue
		} else if err != nil {
			return 0, err
		}
		out, err := exec.Command(t.path + "-save").Output()
		if err != nil {
			return 0, fmt.Errorf("run %s-save: %w", t.path, err)
		}
		for line := range bytes.Lines(out) {
			if bytes.HasPrefix(line, []byte("-A ")) && !bytes.HasPrefix(line, []byte("-A WEFT-")) {
				n++
			}
		}
	}
	return n, nil
}

// chainExists asks without side effects: asking the legacy commands for a table
// that is not in use would make the kernel register it.
func (c *Chains) chainExists(backend string, v6 bool, table, chain string) (bool, error) {
	if backend == backendNFT {
		return nftHas(v6, table, chain)
	}
	tables, err := legacyTables(v6)
	if err != nil || !slices.Contains(tables, table) {
		return false, err
	}
	t, err := c.tool(backendLegacy, v6)
	if errors.Is(err, ErrNoIptables) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	_, err = t.list(table, chain)
	if e := (*iptables.Error)(nil); errors.As(err, &e) && e.IsNotExist() {
		return false, nil
	}
	return err == nil, err
}

// tableUsed says whether a back end has the table, without making it.
func tableUsed(backend string, k ChainKey) (bool, error) {
	if backend == backendNFT {
		return nftHas(k.IPv6, k.Table, "")
	}
	tables, err := legacyTables(k.IPv6)
	return slices.Contains(tables, k.Table), err
}

// legacyTables returns the legacy tables that are in use in the calling thread's
// network namespace.
func legacyTables(v6 bool) ([]string, error) {
	b, err := os.ReadFile(legacyTablesFile(v6))
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	return strings.Fields(string(b)), nil
}

func legacyTablesFile(v6 bool) string {
	if v6 {
		return "/proc/thread-self/net/ip6_tables_names"
	}
	return "/proc/thread-self/net/ip_tables_names"
}

// tool finds the commands of a back end: iptables-nft, or iptables if that is of
// this back end. [ErrNoIptables] if there are none.
func (c *Chains) tool(backend string, v6 bool) (*tool, error) {
	name, proto := "iptables", iptables.ProtocolIPv4
	if v6 {
		name, proto = "ip6tables", iptables.ProtocolIPv6
	}
	key := name + "-" + backend
	if t, ok := c.tools[key]; ok {
		return t, nil
	}
	path, err := findCommand(key)
	if err != nil {
		var perr error
		if path, perr = findCommand(name); perr != nil {
			return nil, err
		}
		if is, berr := backendOf(path); berr != nil || is != backend {
			return nil, errors.Join(err, berr)
		}
	}
	ipt, err := iptables.New(iptables.IPFamily(proto), iptables.Path(path))
	if err != nil {
		return nil, fmt.Errorf("ask %s for its version: %w", path, err)
	}
	c.tools[key] = &tool{path: path, ipt: ipt}
	return c.tools[key], nil
}

// findCommand looks also where a daemon's PATH may not go.
func findCommand(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("command %s %w", name, ErrNoIptables)
}

// backendOf asks a command which back end it is of: "iptables v1.8.9 (nf_tables)".
// Versions before 1.8 do not say, and are legacy.
func backendOf(path string) (string, error) {
	out, err := exec.Command(path, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("run %s --version: %w", path, err)
	}
	if bytes.Contains(out, []byte("(nf_tables)")) {
		return backendNFT, nil
	}
	return backendLegacy, nil
}
