package rival

import (
	"fmt"
	"strings"
)

// nftablesBase is kube-proxy's table without Services, with the maps that these fill.
// After pkg/proxy/nftables/proxier.go of Kubernetes 1.32; %s is the node's address.
const nftablesBase = `table ip kube-proxy {
	set cluster-ips { type ipv4_addr; }
	set nodeport-ips { type ipv4_addr; elements = { %s } }
	map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }
	map no-endpoint-nodeports { type inet_proto . inet_service : verdict; }
	map firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
	map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
	map service-nodeports { type inet_proto . inet_service : verdict; }

	chain reject-chain { reject; }
	chain mark-for-masquerade { meta mark set mark or 0x4000; }
	chain firewall-check { ip daddr . meta l4proto . th dport vmap @firewall-ips; }
	chain service-endpoints-check { ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }
	chain nodeport-endpoints-check { ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports; }
	chain cluster-ips-check { ip daddr @cluster-ips reject; }
	chain services {
		ip daddr . meta l4proto . th dport vmap @service-ips
		ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
	}
	chain masquerading {
		meta mark and 0x4000 == 0 return
		meta mark set mark xor 0x4000
		masquerade fully-random
	}

	chain filter-prerouting {
		type filter hook prerouting priority -110;
		ct state new jump firewall-check
	}
	chain filter-input {
		type filter hook input priority -110;
		ct state new jump nodeport-endpoints-check
		ct state new jump service-endpoints-check
	}
	chain filter-forward {
		type filter hook forward priority -110;
		ct state new jump service-endpoints-check
		ct state new jump cluster-ips-check
	}
	chain filter-output {
		type filter hook output priority -110;
		ct state new jump service-endpoints-check
		ct state new jump firewall-check
	}
	chain filter-output-post-dnat {
		type filter hook output priority -90;
		ct state new jump cluster-ips-check
	}
	chain nat-prerouting {
		type nat hook prerouting priority -100;
		jump services
	}
	chain nat-output {
		type nat hook output priority -100;
		jump services
	}
	chain nat-postrouting {
		type nat hook postrouting priority 100;
		jump masquerading
	}
}
`

// nftablesRules adds Services to the table: they are found by a map, and have a chain
// each, as have their outer sides and their endpoints.
func nftablesRules(services []Service) string {
	var b, elements strings.Builder
	b.WriteString("table ip kube-proxy {\n")
	for _, s := range services {
		name := fmt.Sprintf("%s-default/%s/%s/", digest(8, "default/", s.Name, s.Protocol), s.Name, s.Protocol)
		var vmap []string
		for i, e := range s.endpoints() {
			end := fmt.Sprintf("endpoint-%s__%s/%d", name, strings.ReplaceAll(e.Addr().String(), ":", "."), e.Port())
			fmt.Fprintf(&b, "\tchain %s {\n\t\tip saddr %s jump mark-for-masquerade\n\t\tmeta l4proto %s dnat to %s\n\t}\n",
				end, e.Addr(), s.Protocol, e)
			vmap = append(vmap, fmt.Sprintf("%d : goto %s", i, end))
		}
		fmt.Fprintf(&b, "\tchain service-%s {\n\t\tip daddr %s %s dport %d ip saddr != %s jump mark-for-masquerade\n\t\tnumgen random mod %d vmap { %s }\n\t}\n",
			name, s.IP, s.Protocol, s.Port, clusterCIDR, len(vmap), strings.Join(vmap, ", "))
		fmt.Fprintf(&elements, "add element ip kube-proxy cluster-ips { %s }\n", s.IP)
		fmt.Fprintf(&elements, "add element ip kube-proxy service-ips { %s . %s . %d : goto service-%s }\n", s.IP, s.Protocol, s.Port, name)
		if s.outer() {
			fmt.Fprintf(&b, "\tchain external-%s {\n\t\tjump mark-for-masquerade\n\t\tgoto service-%[1]s\n\t}\n", name)
		}
		if s.Balancer.IsValid() {
			fmt.Fprintf(&elements, "add element ip kube-proxy service-ips { %s . %s . %d : goto external-%s }\n", s.Balancer, s.Protocol, s.Port, name)
		}
		if s.NodePort != 0 {
			fmt.Fprintf(&elements, "add element ip kube-proxy service-nodeports { %s . %d : goto external-%s }\n", s.Protocol, s.NodePort, name)
		}
	}
	b.WriteString("}\n")
	return b.String() + elements.String()
}

// inIPv6 makes the text of a table of IPv4 that of one of IPv6.
var inIPv6 = strings.NewReplacer("table ip ", "table ip6 ", "element ip ", "element ip6 ", "ipv4_addr", "ipv6_addr",
	"ip daddr", "ip6 daddr", "ip saddr", "ip6 saddr", clusterCIDR, clusterCIDR6)
