package overlay

import (
	"bytes"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/coreos/go-iptables/iptables"
	"github.com/weftnet/weft/internal/crash"
)

// chainState is what one back end has of one chain.
type chainState struct {
	exists bool
	rules  string
	jumps  []string // the rules of the base chain that go to ours, as -S prints them
	plain  bool     // there is one jump, it has no conditions, and it is the first rule
}

// read asks one back end for one chain. A back end that is not in use in this
// network namespace, or whose commands are not installed, has nothing.
func (c *Chains) read(backend string, k ChainKey) (chainState, error) {
	var s chainState
	used, err := tableUsed(backend, k)
	if err != nil || !used {
		return s, err
	}
	t, err := c.tool(backend, k.IPv6)
	if err != nil {
		return s, fmt.Errorf("read chain %s: %w", k, err)
	}
	base, err := t.list(k.Table, k.base())
	if err != nil {
		return s, fmt.Errorf("read the rules of %s: %w", k.base(), err)
	}
	for i, r := range base {
		if goesTo(r, k.chain()) {
			s.jumps = append(s.jumps, r)
			s.plain = i == 0 && r == plainJump(k)
		}
	}
	s.plain = s.plain && len(s.jumps) == 1
	if s.exists, err = c.present(backend, k); err != nil || !s.exists {
		return s, err
	}
	rules, err := t.list(k.Table, k.chain())
	if err != nil {
		return s, fmt.Errorf("read chain %s: %w", k, err)
	}
	if len(rules) > 0 {
		s.rules = strings.Join(rules, "\n") + "\n"
	}
	return s, nil
}

// present says whether our chain exists in a back end. It is cheap.
func (c *Chains) present(backend string, k ChainKey) (bool, error) {
	return c.chainExists(backend, k.IPv6, k.Table, k.chain())
}

func plainJump(k ChainKey) string { return "-A " + k.base() + " -j " + k.chain() }

// goesTo says whether a printed rule jumps or goes to a chain.
func goesTo(rule, chain string) bool {
	f := strings.Fields(rule)
	i := slices.Index(f, chain)
	return i > 0 && (f[i-1] == "-j" || f[i-1] == "-g")
}

// tries is how often a transaction is made anew that failed because the jumps
// which it replaces were changed after they were read.
const tries = 3

// write makes the chain, in one transaction with its jump.
func (c *Chains) write(backend string, k ChainKey, rules string) error {
	t, err := c.tool(backend, k.IPv6)
	if err != nil {
		return err
	}
	for range tries {
		var s chainState
		if backend == backendNFT {
			if err = nftPrepare(k); err != nil {
				return err
			}
		}
		if s, err = c.read(backend, k); err != nil {
			return err
		}
		var b strings.Builder
		fmt.Fprintf(&b, "*%s\n:%s - [0:0]\n%s", k.Table, k.chain(), rules)
		if !s.plain {
			dropJumps(&b, s.jumps)
			fmt.Fprintf(&b, "-I %s 1 -j %s\n", k.base(), k.chain())
		}
		b.WriteString("COMMIT\n")
		if err = t.restore(b.String()); err == nil {
			crash.Point("chain")
			return nil
		}
	}
	return err
}

func dropJumps(b *strings.Builder, jumps []string) {
	for _, j := range jumps {
		fmt.Fprintf(b, "-D %s\n", strings.TrimPrefix(j, "-A "))
	}
}

// remove deletes the jumps and the chain, and what we had to make for them.
func (c *Chains) remove(backend string, k ChainKey) error {
	if err := c.removeRules(backend, k); err != nil || backend != backendNFT {
		return err
	}
	return nftTidy(k)
}

func (c *Chains) removeRules(backend string, k ChainKey) error {
	var err error
	for range tries {
		s, rerr := c.read(backend, k)
		if rerr != nil || !s.exists && len(s.jumps) == 0 {
			return rerr
		}
		t, terr := c.tool(backend, k.IPv6)
		if terr != nil {
			return terr
		}
		var b strings.Builder
		fmt.Fprintf(&b, "*%s\n", k.Table)
		dropJumps(&b, s.jumps)
		if s.exists {
			fmt.Fprintf(&b, "-F %[1]s\n-X %[1]s\n", k.chain())
		}
		b.WriteString("COMMIT\n")
		if err = t.restore(b.String()); err == nil {
			crash.Point("chain")
			return nil
		}
	}
	return err
}

// tool is one back end's commands for one family.
type tool struct {
	path string // iptables-nft, …
	ipt  *iptables.IPTables
}

// list returns the rules of a chain without its declaration.
func (t *tool) list(table, chain string) ([]string, error) {
	lines, err := t.ipt.List(table, chain)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(lines, func(l string) bool { return !strings.HasPrefix(l, "-A ") }), nil
}

// lockSeconds is how long we wait for the lock of iptables.
const lockSeconds = "10"

// restore commits a transaction.
func (t *tool) restore(text string) error {
	cmd := exec.Command(t.path+"-restore", "--noflush", "-w", lockSeconds)
	cmd.Stdin = strings.NewReader(text)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run %s: %w: %s", cmd.Path, err, strings.TrimSpace(stderr.String()))
	}
	return nil
}
