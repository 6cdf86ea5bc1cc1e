package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/weftnet/weft/e2e/cluster"
	"github.com/weftnet/weft/e2e/rival"
	"github.com/weftnet/weft/internal/testnet"
)

const nodePort = 30080

// backendPort is that of the i-th Service's endpoints. Each Service has another, so that
// no connection meets another Service's in TIME_WAIT on the same pair of ports: the
// client's timestamps go by the address that it asks for, so its SYN may look old there,
// and then costs a second.
func backendPort(i int) uint16 { return uint16(2000 + i) }

// clusterIP is the i-th Service's address.
func clusterIP(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}) }

// outer is the number of the Service of TCP with a node port; that of UDP follows.
const outer = 5

// nobody is the e-th endpoint of the i-th Service: on no node.
func nobody(i, e int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(128 + e), byte(i >> 8), byte(i)})
}

// manyServices is n Services with an endpoint each. That of the last two is the pod
// `same`; two of the first ten, one of each protocol, have a node port and the pod `cross`.
func manyServices(n int, same, cross netip.Addr) []rival.Service {
	all := make([]rival.Service, n)
	for i := range all {
		all[i] = rival.Service{
			Name: fmt.Sprintf("service-%05d", i), Protocol: "tcp", IP: clusterIP(i), Port: 80,
			Endpoint: netip.AddrPortFrom(nobody(i, 0), backendPort(i)),
		}
	}
	// What peers loaded before stays part of what they load.
	for _, size := range append([]int{n}, sizes...) {
		if size <= n {
			for i := size - 2; i < size; i++ {
				all[i].Endpoint = netip.AddrPortFrom(same, backendPort(i))
			}
		}
	}
	for i, protocol := range []string{"tcp", "udp"} {
		s := &all[outer+i]
		s.Protocol, s.NodePort, s.Endpoint = protocol, uint16(nodePort+i), netip.AddrPortFrom(cross, backendPort(outer+i))
	}
	return all
}

// objects is Services and their EndpointSlices as YAML. Each has the endpoints of its
// rival.Service, and so many more that are nobody.
func objects(first int, services []rival.Service, more int) string {
	var b strings.Builder
	for i, s := range services {
		node := ""
		if s.NodePort != 0 {
			node = fmt.Sprintf(", nodePort: %d", s.NodePort)
		}
		fmt.Fprintf(&b, `---
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: default}
spec: {type: %s, clusterIP: %s, ports: [{port: %d, protocol: %s%s}]}
---
%s`, s.Name, map[bool]string{true: "NodePort", false: "ClusterIP"}[s.NodePort != 0], s.IP, s.Port, strings.ToUpper(s.Protocol), node,
			slice(s, first+i, more))
	}
	return b.String()
}

// slice is the EndpointSlice of the i-th Service.
func slice(s rival.Service, i, more int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s-1, namespace: default, labels: {kubernetes.io/service-name: %[1]s}}
addressType: IPv4
ports: [{port: %d, protocol: %s}]
endpoints:
- {addresses: [%s]}
`, s.Name, s.Endpoint.Port(), strings.ToUpper(s.Protocol), s.Endpoint.Addr())
	for e := range more {
		fmt.Fprintf(&b, "- {addresses: [%s]}\n", nobody(i, 1+e))
	}
	return b.String()
}

// perFile keeps a file of objects far below its greatest size, 16 MiB.
const perFile = 1000

// writeServices makes the source hold these Services.
func writeServices(c *cluster.Cluster, services []rival.Service, more int) error {
	for first := 0; first < len(services); first += perFile {
		part := services[first:min(first+perFile, len(services))]
		if err := c.WriteObject(fmt.Sprintf("services-%05d", first), objects(first, part, more)); err != nil {
			return err
		}
	}
	return nil
}

// programmed waits until nodes have so many Services, and each one of these places, in
// the kernel.
func programmed(ctx context.Context, nodes []*cluster.Node, count int, last string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return testnet.Wait(ctx, func() error {
		for _, n := range nodes {
			m, err := metrics(ctx, n)
			if err != nil {
				return err
			}
			if got := m["weft_services"]; int(got) != count {
				return fmt.Errorf("%s: %v Services are served, want %d", n.Name, got, count)
			}
			s, err := n.Client().Status(ctx)
			if err != nil {
				return err
			}
			for _, t := range s.Tables {
				if t.Error != "" {
					return fmt.Errorf("%s: table %s: %s", n.Name, t.Name, t.Error)
				}
				if t.Name == "sets" && t.Rows < count {
					return fmt.Errorf("%s: %d sets in the kernel, want %d", n.Name, t.Rows, count)
				}
			}
			shown, err := n.Client().Services(ctx, last)
			if err != nil {
				return err
			}
			if len(shown) != 1 || !shown[0].Served || len(shown[0].Problems) > 0 {
				text, _ := json.Marshal(shown)
				return fmt.Errorf("%s: Service %s: %s", n.Name, last, text)
			}
		}
		return nil
	})
}

// metrics is a daemon's metrics: value by name and labels.
func metrics(ctx context.Context, n *cluster.Node) (map[string]float64, error) {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", n.Socket())
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://weftd/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	values := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || line[0] == '#' {
			continue
		}
		v, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("read metrics: line %q: %w", line, err)
		}
		values[line[:at]] = v
	}
	return values, nil
}

const programSeconds = "weft_service_program_seconds"

// between is the quantile of what a histogram was told between two looks, in seconds:
// within a bucket, as if all were spread evenly.
func between(before, after map[string]float64, name string, q float64) (float64, error) {
	type bucket struct{ le, n float64 }
	var all []bucket
	for bound := 0.0005; bound < 5; bound *= 2 {
		key := fmt.Sprintf("%s_bucket{le=%q}", name, strconv.FormatFloat(bound, 'g', -1, 64))
		if _, ok := after[key]; !ok {
			return 0, errors.New("the daemon's metrics have no " + key)
		}
		all = append(all, bucket{bound, after[key] - before[key]})
	}
	total := after[name+"_count"] - before[name+"_count"]
	if total == 0 {
		return 0, errors.New("no change was counted")
	}
	was := bucket{}
	for _, b := range all {
		if b.n >= q*total {
			return was.le + (b.le-was.le)*(q*total-was.n)/(b.n-was.n), nil
		}
		was = b
	}
	return math.Inf(1), nil
}

// renamed gives the slice of a Service another name.
func renamed(text, service string, number int) string {
	return strings.Replace(text, "{name: "+service+"-1,", fmt.Sprintf("{name: change-%03d,", number), 1)
}
