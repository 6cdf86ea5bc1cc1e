package scenario

import (
	"context"
	"fmt"
	"strings"
)

// checkScript does what libcni does for CHECK: it calls each plugin with its configuration, the
// result of ADD, and what it asks the runtime for, as they were noted at ADD. It says who
// was well.
const checkScript = `
	noted=$(ls /var/lib/cni/results/*-%s-eth0)
	export CNI_COMMAND=CHECK CNI_PATH=/opt/cni/bin CNI_CONTAINERID=%[1]s CNI_IFNAME=eth0
	CNI_NETNS=$(jq -r .netns $noted); export CNI_NETNS
	CNI_ARGS=$(jq -r '[.cniArgs[] | join("=")] | join(";")' $noted); export CNI_ARGS
	n=$(jq -r '.config | @base64d | fromjson | .plugins | length' $noted)
	for i in $(seq 0 $((n - 1))); do
		conf=$(jq -c --argjson i $i '. as $noted | (.config | @base64d | fromjson) as $list | $list.plugins[$i] as $p |
			$p + {cniVersion: $list.cniVersion, name: $list.name, prevResult: .result,
				runtimeConfig: ((.capabilityArgs // {}) | with_entries(select($p.capabilities[.key] // false)))}' $noted)
		type=$(echo "$conf" | jq -r .type)
		if said=$(echo "$conf" | $CNI_PATH/$type 2>&1); then echo "$type well"; else echo "$type ill: $(echo $said)"; fi
	done`

// checks calls CHECK for the server as it is, and after each plugin's work was undone: the
// plugin says so, and no other minds.
func (l *links) checks(ctx context.Context) error {
	for _, undone := range []struct{ of, undo, redo string }{
		{"nobody", "true", "true"},
		{"tuning", "nsenter --net=" + l.netns + " sysctl -qw net.core.somaxconn=99", "nsenter --net=" + l.netns + " sysctl -qw net.core.somaxconn=" + backlog},
		{"portmap", "iptables-save -t nat > /run/weft-e2e-nat; ip6tables-save -t nat > /run/weft-e2e-nat6; " +
			"for t in iptables ip6tables; do $t -t nat -S | sed -n 's/^-N \\(CNI-DN-.*\\)/\\1/p' | while read -r name; do $t -t nat -F $name; done; done",
			"iptables-restore < /run/weft-e2e-nat; ip6tables-restore < /run/weft-e2e-nat6; rm /run/weft-e2e-nat /run/weft-e2e-nat6"},
		{"bandwidth", "tc qdisc change dev " + l.device + " root tbf rate 1mbit burst 100k latency 25ms", "true"},
	} {
		if _, err := shell(ctx, l.c, l.node, undone.undo); err != nil {
			return err
		}
		out, err := shell(ctx, l.c, l.node, fmt.Sprintf(checkScript, l.id))
		if err != nil {
			return err
		}
		if _, err := shell(ctx, l.c, l.node, undone.redo); err != nil {
			return err
		}
		called := 0
		for line := range strings.Lines(out) {
			called++
			name, verdict, _ := strings.Cut(strings.TrimSpace(line), " ")
			if (verdict == "well") == (name == undone.of) {
				return fmt.Errorf("CHECK after the work of %s was undone:\n%s", undone.of, out)
			}
		}
		if called != 6 { // Weft, three, and the two that note
			return fmt.Errorf("CHECK: got %d plugins, want 6:\n%s", called, out)
		}
	}
	return nil
}

// order reads what the two noting plugins saw of the server: for DEL, the last of the chain
// is called first, and Weft after all. bandwidth's limit goes with the device, not by its DEL.
func (l *links) order(ctx context.Context) error {
	noted, err := shell(ctx, l.c, l.node, "cat /run/weft-e2e-chain/"+l.id)
	if err != nil {
		return err
	}
	const want = `first ADD: device
last ADD: device limit rules
last DEL: device limit rules
first DEL: device limit
`
	if !strings.HasPrefix(noted, want) { // a runtime may ask for DEL again
		return fmt.Errorf("the chain was called so:\n%swant:\n%s", noted, want)
	}
	return nil
}
