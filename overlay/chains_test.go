package overlay

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

func mustPrefixes(t *testing.T, s ...string) []netip.Prefix {
	t.Helper()
	var out []netip.Prefix
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func TestSelfChains(t *testing.T) {
	const forward = "-A WEFT-FORWARD -o weft+ -j ACCEPT\n" +
		"-A WEFT-FORWARD -i weft+ -p udp -m udp --dport 8872 -j DROP\n-A WEFT-FORWARD -i weft+ -j ACCEPT\n"
	f4, f6 := ChainKey{false, TableFilter}, ChainKey{true, TableFilter}
	n4, n6 := ChainKey{false, TableNAT}, ChainKey{true, TableNAT}
	tests := []struct {
		name          string
		self, cluster []string
		masquerade    bool
		want          map[ChainKey]Chain
	}{
		{"no pod prefix", nil, []string{"10.244.1.0/24"}, true, map[ChainKey]Chain{}},
		{"no masquerade", []string{"10.244.1.0/24"}, nil, false, map[ChainKey]Chain{f4: {Rules: forward}}},
		{
			"neighbouring prefixes are one rule",
			[]string{"10.244.1.0/24"}, []string{"10.244.1.0/24", "10.244.0.0/24", "10.250.0.0/24"}, true,
			map[ChainKey]Chain{f4: {Rules: forward}, n4: {Rules: `-A WEFT-POSTROUTING -d 224.0.0.0/4 -j RETURN
-A WEFT-POSTROUTING -s 10.244.1.0/24 -o weft-vxlan -j RETURN
-A WEFT-POSTROUTING -o weft-vxlan -j MASQUERADE
-A WEFT-POSTROUTING -d 10.244.0.0/23 -j RETURN
-A WEFT-POSTROUTING -d 10.250.0.0/24 -j RETURN
-A WEFT-POSTROUTING -s 10.244.1.0/24 -p tcp -j MASQUERADE --to-ports 32768-65535 --random-fully
-A WEFT-POSTROUTING -s 10.244.1.0/24 -p udp -j MASQUERADE --to-ports 32768-65535 --random-fully
-A WEFT-POSTROUTING -s 10.244.1.0/24 -p sctp -j MASQUERADE --to-ports 32768-65535 --random-fully
-A WEFT-POSTROUTING -s 10.244.1.0/24 -j MASQUERADE --random-fully
`}},
		},
		{
			"IPv6 only", []string{"fd00:244:1::/64"}, []string{"10.244.1.0/24", "fd00:244:1::/64"}, true,
			map[ChainKey]Chain{f6: {Rules: forward}, n6: {Rules: `-A WEFT-POSTROUTING -d ff00::/8 -j RETURN
-A WEFT-POSTROUTING -s fd00:244:1::/64 -o weft-vxlan -j RETURN
-A WEFT-POSTROUTING -o weft-vxlan -j MASQUERADE
-A WEFT-POSTROUTING -d fd00:244:1::/64 -j RETURN
-A WEFT-POSTROUTING -s fd00:244:1::/64 -p tcp -j MASQUERADE --to-ports 32768-65535 --random-fully
-A WEFT-POSTROUTING -s fd00:244:1::/64 -p udp -j MASQUERADE --to-ports 32768-65535 --random-fully
-A WEFT-POSTROUTING -s fd00:244:1::/64 -p sctp -j MASQUERADE --to-ports 32768-65535 --random-fully
-A WEFT-POSTROUTING -s fd00:244:1::/64 -j MASQUERADE --random-fully
`}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := SelfChains(mustPrefixes(t, tt.self...), mustPrefixes(t, tt.cluster...), tt.masquerade, DefaultPort, MasqueradePorts(nil))
			if d := cmp.Diff(got, tt.want); d != "" {
				t.Errorf("got - want +\n%s", d)
			}
		})
	}
}

// wantedChains are those of a dual-stack node in a cluster of many prefixes that
// do not merge.
func wantedChains(t *testing.T) map[ChainKey]Chain {
	cluster := []string{"fd00:244:1::/64", "fd00:244:3::/64"}
	for i := range 100 {
		cluster = append(cluster, fmt.Sprintf("10.244.%d.0/24", 2*i+1))
	}
	return SelfChains(mustPrefixes(t, "10.244.1.0/24", "fd00:244:1::/64"), mustPrefixes(t, cluster...), true, DefaultPort, MasqueradePorts(nil))
}

// markBackend does what the kubelet does, so that this back end is chosen, and
// adds rules of others.
func markBackend(t *testing.T, backend string) {
	t.Helper()
	for _, cmd := range []string{"iptables-" + backend, "ip6tables-" + backend} {
		sh(t, strings.ReplaceAll(`CMD -t mangle -N KUBE-IPTABLES-HINT
			CMD -t nat -N FOREIGN
			CMD -t nat -A POSTROUTING -m comment --comment foreign -j FOREIGN
			CMD -t nat -A FOREIGN -p tcp --dport 80 -j RETURN
			CMD -A FORWARD -i foreign0 -j DROP
			CMD -P FORWARD DROP
		`, "CMD", cmd))
	}
}

var volatile = regexp.MustCompile(`(?m)^#.*\n|\[\d+:\d+\]|packets \d+ bytes \d+`)

// digest is all rules of both back ends and families.
func digest(t *testing.T) string {
	t.Helper()
	out := ""
	for _, cmd := range []string{"iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"} {
		b, err := exec.Command(cmd).Output()
		if err != nil {
			t.Fatalf("%s: %v", cmd, err)
		}
		out += cmd + "\n" + string(b)
	}
	return volatile.ReplaceAllString(out+sh(t, "nft list ruleset"), "")
}

func setChains(t *testing.T, c *Chains, want map[ChainKey]Chain) {
	t.Helper()
	for k, v := range want {
		if err := c.Set(k, v); err != nil {
			t.Fatal(err)
		}
	}
	checkChains(t, c, want)
}

func checkChains(t *testing.T, c *Chains, want map[ChainKey]Chain) {
	t.Helper()
	got, err := c.Dump()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(got, want); d != "" {
		t.Fatalf("got - want +\n%s", d)
	}
}

func TestChainsAreRepairedAndLeaveNoTrace(t *testing.T) {
	damage := []struct{ name, cmds string }{
		{"jump deleted", "CMD -t nat -D POSTROUTING -j WEFT-POSTROUTING"},
		{"jump moved behind", "CMD -t nat -D POSTROUTING -j WEFT-POSTROUTING\nCMD -t nat -A POSTROUTING -j WEFT-POSTROUTING"},
		{"jump doubled", "CMD -A FORWARD -j WEFT-FORWARD"},
		{"jump with a condition", "CMD -D FORWARD -j WEFT-FORWARD\nCMD -I FORWARD -i foo -j WEFT-FORWARD"},
		{"a rule put before the jump", "CMD -t nat -I POSTROUTING -o foo -j ACCEPT"},
		{"chain flushed", "CMD -t nat -F WEFT-POSTROUTING"},
		{"foreign rule in our chain", "CMD -I WEFT-FORWARD -s 127.0.0.0/8 -j DROP"},
		{"rule of ours deleted", "CMD -D WEFT-FORWARD 2"},
		{"all gone", "CMD -D FORWARD -j WEFT-FORWARD\nCMD -F WEFT-FORWARD\nCMD -X WEFT-FORWARD"},
	}
	for _, backend := range []string{backendNFT, backendLegacy} {
		for _, family := range []string{"iptables", "ip6tables"} {
			t.Run(backend+" "+family, func(t *testing.T) {
				newNetns(t)
				markBackend(t, backend)
				before := digest(t)
				c, want := NewChains(), wantedChains(t)
				setChains(t, c, want)
				if got := c.Backend(); got != backend {
					t.Errorf("back end is %s, want the kubelet's, %s", got, backend)
				}
				for _, d := range damage {
					cmds := strings.ReplaceAll(d.cmds, "CMD", family+"-"+backend)
					if strings.Contains(family, "6") {
						cmds = strings.ReplaceAll(cmds, "127.0.0.0/8", "::1")
					}
					sh(t, cmds)
					got, err := c.Dump()
					if err != nil {
						t.Fatal(err)
					}
					n := 0
					for k, v := range want {
						if got[k] != v {
							n++
							if k.IPv6 != (family == "ip6tables") {
								t.Errorf("%s: %s is seen as damaged", d.name, k)
							}
							if err := c.Set(k, v); err != nil {
								t.Fatal(err)
							}
						}
					}
					if n != 1 {
						t.Errorf("%s: %d chains are seen as damaged, want 1", d.name, n)
					}
					checkChains(t, c, want)
				}
				if err := c.Remove(); err != nil {
					t.Fatal(err)
				}
				if err := c.Remove(); err != nil {
					t.Errorf("second time: %v", err)
				}
				checkChains(t, c, map[ChainKey]Chain{})
				// The rule that the damages themselves put there.
				sh(t, strings.ReplaceAll("CMD -t nat -D POSTROUTING -o foo -j ACCEPT", "CMD", family+"-"+backend))
				if d := cmp.Diff(digest(t), before); d != "" {
					t.Errorf("foreign state changed: got - want +\n%s", d)
				}
				setChains(t, c, want)
				sh(t, strings.ReplaceAll("CMD -t nat -F\nCMD -t nat -X", "CMD", family+"-"+backend))
				setChains(t, c, want)
			})
		}
	}
}

func TestChainsMoveWithTheKubelet(t *testing.T) {
	for _, from := range []string{backendNFT, backendLegacy} {
		to := otherBackend(from)
		t.Run(from+" to "+to, func(t *testing.T) {
			newNetns(t)
			markBackend(t, from)
			c, want := NewChains(), wantedChains(t)
			setChains(t, c, want)
			for _, family := range []string{"iptables-", "ip6tables-"} {
				sh(t, family+from+" -t mangle -X KUBE-IPTABLES-HINT")
			}
			markBackend(t, to)
			got, err := c.Dump()
			if err != nil {
				t.Fatal(err)
			}
			for k := range want {
				if !got[k].Odd {
					t.Errorf("%s is in the former back end, and not seen as odd", k)
				}
			}
			setChains(t, c, want)
			for _, family := range []string{"iptables-", "ip6tables-"} {
				if out := sh(t, family+from+"-save"); strings.Contains(out, "WEFT") {
					t.Errorf("%s still has\n%s", family+from, out)
				}
			}
		})
	}
}

func TestChainsBackendWithoutKubelet(t *testing.T) {
	tests := []struct{ name, cmds, want string }{
		{"nothing at all: what iptables is", "", backendNFT},
		{"rules in legacy", "iptables-legacy -A INPUT -j ACCEPT", backendLegacy},
		{"IPv6 rules in legacy", "ip6tables-legacy -A INPUT -j ACCEPT", backendLegacy},
		{"more rules in nft", "iptables-legacy -A INPUT -j ACCEPT\niptables-nft -A INPUT -j ACCEPT\niptables-nft -A OUTPUT -j ACCEPT", backendNFT},
		{"rules in nft that are not of iptables", "iptables-legacy -A INPUT -j ACCEPT\nnft add table inet fw\nnft add chain inet fw c\nnft add rule inet fw c accept\nnft add rule inet fw c accept", backendLegacy},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			newNetns(t)
			sh(t, tt.cmds)
			c := NewChains()
			k := ChainKey{false, TableFilter}
			if err := c.Set(k, wantedChains(t)[k]); err != nil {
				t.Fatal(err)
			}
			if got := c.Backend(); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			again := NewChains() // a restarted daemon comes to the same
			checkChains(t, again, map[ChainKey]Chain{k: wantedChains(t)[k]})
			if got := again.Backend(); got != tt.want {
				t.Errorf("after a restart got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestChainsLeaveNoTraceInNFTables(t *testing.T) {
	tests := []struct{ name, before, during, kept string }{
		{"nothing was there", "", "", ""},
		{"tables without base chains", "iptables-nft -A INPUT -j ACCEPT\nip6tables-nft -t nat -A PREROUTING -j ACCEPT", "", ""},
		{"an empty table of others", "nft add table ip nat", "", ""},
		{"an empty base chain of others", "iptables-nft -t nat -A POSTROUTING -j ACCEPT\niptables-nft -t nat -F", "", ""},
		{"others begin to use them", "", "iptables-nft -t nat -A PREROUTING -j ACCEPT", "-A PREROUTING -j ACCEPT"},
		{"others set a policy", "", "iptables-nft -P FORWARD DROP", ":FORWARD DROP"},
		{"others add a chain", "", "ip6tables-nft -N OTHER", ":OTHER - "},
		{"others add a set", "", "nft add set ip filter s {type ipv4_addr;}", "set s"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			newNetns(t)
			sh(t, tt.before)
			before := digest(t)
			c, want := NewChains(), wantedChains(t)
			if err := c.choose(); err != nil {
				t.Fatal(err)
			}
			c.backend = backendNFT
			setChains(t, c, want)
			sh(t, tt.during)
			if err := c.Remove(); err != nil {
				t.Fatal(err)
			}
			if tt.kept != "" {
				if got := digest(t); !strings.Contains(got, tt.kept) || strings.Contains(got, "WEFT") {
					t.Errorf("want %q kept, and nothing of ours; got\n%s", tt.kept, got)
				}
				return
			}
			if d := cmp.Diff(digest(t), before); d != "" {
				t.Errorf("got - want +\n%s", d)
			}
		})
	}
}

func TestLookingAtChainsWritesNothing(t *testing.T) {
	newNetns(t)
	checkChains(t, NewChains(), map[ChainKey]Chain{})
	if err := NewChains().Remove(); err != nil {
		t.Fatal(err)
	}
	if out := sh(t, "nft list ruleset"); out != "" {
		t.Errorf("nf_tables has %q", out)
	}
	for _, v6 := range []bool{false, true} {
		if tables, err := legacyTables(v6); err != nil || len(tables) > 0 {
			t.Errorf("legacy tables %v, %v; want none", tables, err)
		}
	}
}

func TestMissingCommandNamesThePackage(t *testing.T) {
	_, err := findCommand("iptables-nonesuch")
	if !errors.Is(err, ErrNoIptables) || !strings.Contains(err.Error(), "install the package iptables") {
		t.Errorf("got %v, want ErrNoIptables with the package's name", err)
	}
}

func TestNFTTransactionOfAnOldGenerationIsRefused(t *testing.T) {
	newNetns(t)
	sh(t, "nft add table ip other")
	gen, err := nftGeneration()
	if err != nil || gen == 0 {
		t.Fatalf("generation %d, %v", gen, err)
	}
	sh(t, "nft add table ip other2")
	k := ChainKey{false, TableNAT}
	var b nftBatch
	b.add(false, unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, nl.NewRtAttr(unix.NFTA_TABLE_NAME, nl.ZeroTerminated(k.Table)))
	if err := b.commit(gen); !errors.Is(err, unix.ERESTART) {
		t.Errorf("got %v, want ERESTART", err)
	}
	if got, err := nftRead(k); err != nil || got.table {
		t.Errorf("the table was made, %v", err)
	}
}
