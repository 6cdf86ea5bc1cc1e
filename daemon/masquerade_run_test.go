package daemon

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/testnet"
)

// masquerades waits until pods' traffic leaves the cluster from these ports only.
func (m *machine) masquerades(from string) {
	m.lab.t.Helper()
	testnet.Until(m.lab.t, converge, func() error {
		for _, tool := range []string{"iptables", "ip6tables"} {
			rules, err := m.Output(tool, "-w", "-t", "nat", "-S", "WEFT-POSTROUTING")
			if err != nil {
				return err
			}
			if got, want := strings.Count(rules, "--to-ports "), strings.Count(rules, "--to-ports "+from+" "); got == 0 || got != want {
				return fmt.Errorf("%s masquerades from other ports than %s:\n%s", tool, from, rules)
			}
		}
		return nil
	})
}

// An answer to a masqueraded port at which the node serves a Service would be taken for a
// question to that, whatever range the cluster's node ports have.
func TestMasqueradeKeepsAwayFromServedPorts(t *testing.T) {
	l := newLab(t)
	a := l.add()
	a.usual()
	service := func(port int) string {
		return fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {type: NodePort, clusterIPs: [10.96.0.10, "fd00:96::10"], ports: [{port: 50000, nodePort: %d}]}
`, port)
	}
	l.file("web.yaml", service(30080))
	a.start()
	a.ready()
	a.masquerades("32768-65535")
	l.file("web.yaml", service(40000))
	a.masquerades("40960-65535")
	pod := a.attach(func(at *api.Attach) { at.PortMappings = []api.PortMapping{{HostPort: 51000, ContainerPort: 80}} })
	a.masquerades("51200-65535")

	// Another daemon goes by what the kernel has, if it does not know better.
	objects := l.dir + "/objects"
	l.must(os.Rename(objects, objects+".away"))
	a.stop(syscall.SIGKILL)
	_, err := a.Output("iptables", "-w", "-t", "nat", "-F", "WEFT-POSTROUTING")
	l.must(err)
	a.start()
	a.until("it serves", func(s api.Status) bool { return s.Ready && !s.Synced })
	a.masquerades("51200-65535")
	l.must(os.Rename(objects+".away", objects))
	a.until("all is well", func(s api.Status) bool { return s.Ready && s.Synced && len(s.Problems) == 0 })
	a.masquerades("51200-65535")

	l.must(a.client().Del(t.Context(), pod.request()))
	a.masquerades("40960-65535")
	l.file("web.yaml", "")
	a.masquerades("32768-65535")
}
