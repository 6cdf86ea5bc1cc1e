package loadbalancer

import (
	"testing"

	"github.com/weftnet/weft/daemon/source"
)

func TestWhichServicesAreOurs(t *testing.T) {
	for _, c := range []struct {
		kind, class     string
		classless, want bool
	}{
		{"LoadBalancer", Class, false, true},
		{"LoadBalancer", Class, true, true},
		{"LoadBalancer", "", false, false},
		{"LoadBalancer", "", true, true},
		{"LoadBalancer", "example.com/other", true, false},
		{"NodePort", Class, true, false},
		{"ClusterIP", "", true, false},
	} {
		s := &source.Service{Type: c.kind, LoadBalancerClass: c.class}
		if got := Ours(s, c.classless); got != c.want {
			t.Errorf("type %s, class %q, classless %v: %v, want %v", c.kind, c.class, c.classless, got, c.want)
		}
	}
}
