package daemon

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/weftnet/weft/bpf"
)

func TestTargetsAreRead(t *testing.T) {
	for text, want := range map[string]target{
		"web":                   {name: "web", protocol: bpf.TCP},
		"shop/web":              {namespace: "shop", name: "web", protocol: bpf.TCP},
		"shop/web:80":           {namespace: "shop", name: "web", port: 80, protocol: bpf.TCP},
		"web:53/udp":            {name: "web", port: 53, protocol: bpf.UDP},
		"web:9/SCTP":            {name: "web", port: 9, protocol: bpf.SCTP},
		"10.0.0.1":              {addr: addr("10.0.0.1"), protocol: bpf.TCP},
		"10.0.0.1:80/tcp":       {addr: addr("10.0.0.1"), port: 80, protocol: bpf.TCP},
		"fd00::1":               {addr: addr("fd00::1"), protocol: bpf.TCP},
		"[fd00::1]":             {addr: addr("fd00::1"), protocol: bpf.TCP},
		"[fd00::1]:80":          {addr: addr("fd00::1"), port: 80, protocol: bpf.TCP},
		"::ffff:10.0.0.1":       {addr: addr("10.0.0.1"), protocol: bpf.TCP},
		"[::ffff:10.0.0.1]:443": {addr: addr("10.0.0.1"), port: 443, protocol: bpf.TCP},
	} {
		if got, err := parseTarget(text); err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"":               "neither an address nor",
		"web:http":       `"http" is no port`,
		"web:0":          `"0" is no port`,
		"web:65536":      `"65536" is no port`,
		"web:80/icmp":    `"icmp" is no protocol`,
		"a/b/c":          "neither an address nor",
		"[10.0.0.1:80":   "neither an address nor",
		"[fd00::1":       "neither an address nor",
		"[fd00::1]80":    `"1]80" is no port`,
		"Web":            "neither an address nor",
		"fd00::1:80/tcp": "in brackets",
	} {
		if got, err := parseTarget(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %+v, %v, want an error with %q", text, got, err, want)
		}
	}
}

func FuzzTarget(f *testing.F) {
	for _, s := range []string{"shop/web:80/udp", "[fd00::1]:80", "10.0.0.1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseTarget(text)
		if err == nil && (got.addr == netip.Addr{}) == (got.name == "") {
			t.Errorf("%q is %+v: neither or both of a name and an address", text, got)
		}
	})
}
