package scenario

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What changes by itself is in no digest, and what is next to it is.
func TestLinesHaveNothingThatChangesByItself(t *testing.T) {
	const format = `ip -o link: 7: eth0@if12: <UP>
iptables-nft-save: -A DOCKER_OUTPUT -d 172.18.0.1/32 -p tcp -m tcp --dport 53 -j DNAT --to-destination 127.0.0.11:PORT
iptables-nft-save: -A DOCKER_POSTROUTING -s 127.0.0.11/32 -p udp -m udp --sport PORT -j SNAT --to-source 172.18.0.1:53
nft list ruleset: ip daddr 172.18.0.1 udp dport 53 dnat to 127.0.0.11:PORT
nft list ruleset: ip saddr 127.0.0.11 tcp sport PORT snat to 172.18.0.1:53
iptables-nft-save: -A OURS -s 10.0.0.0/8 -p tcp -m tcp --sport 80 -j ACCEPT
`
	one, other := lines(strings.ReplaceAll(format, "PORT", "36445")), lines(strings.ReplaceAll(format, "PORT", "45013"))
	if diff := cmp.Diff(one, other); diff != "" {
		t.Errorf("with other ports of Docker's DNS server (-one +other):\n%s", diff)
	}
	if got := len(one); got != 6 {
		t.Errorf("got %d lines, want 6: %q", got, one)
	}
	for i, part := range []string{"eth0", "DOCKER_OUTPUT", "172.18.0.1:53", "dnat to", "172.18.0.1:53", "--sport 80"} {
		if i < len(one) && !strings.Contains(one[i], part) {
			t.Errorf("line %d is %q, without %q", i, one[i], part)
		}
	}
}
