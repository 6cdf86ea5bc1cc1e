package source

import (
	"bytes"
	"fmt"
	"runtime"
	"testing"

	"sigs.k8s.io/yaml"
)

// serviceYAML is Service n with its slice of five endpoints, as kubectl shows them.
func serviceYAML(n int) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, `apiVersion: v1
kind: Service
metadata:
  name: service-%[1]d
  namespace: team-%[2]d
  labels: {app: service-%[1]d}
  uid: 00000000-0000-0000-0000-0000%08[1]d
spec:
  clusterIP: 10.96.%[3]d.%[4]d
  clusterIPs: [10.96.%[3]d.%[4]d]
  ipFamilies: [IPv4]
  ports:
  - {name: http, port: 80, protocol: TCP, targetPort: 8080}
  - {name: metrics, port: 9090, protocol: TCP, targetPort: metrics}
  selector: {app: service-%[1]d}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: service-%[1]d-abcde
  namespace: team-%[2]d
  labels: {kubernetes.io/service-name: service-%[1]d}
addressType: IPv4
ports:
- {name: http, port: 8080, protocol: TCP}
- {name: metrics, port: 9090, protocol: TCP}
endpoints:
`, n, n%50, n/256, n%256)
	for i := range 5 {
		fmt.Fprintf(&b, `- addresses: [10.%[1]d.%[2]d.%[3]d]
  conditions: {ready: true, serving: true, terminating: false}
  nodeName: node-%04[4]d
  targetRef: {kind: Pod, name: service-%[5]d-7d4b9c-%[3]d, namespace: team-%[6]d, uid: 11111111-0000-0000-%04[3]d-0000%08[5]d}
  zone: zone-%[7]d
`, n/256, n%256, i+2, (n*5+i)%1000, n, n%50, n%3)
	}
	return b.String()
}

// BenchmarkDecode reads 10,000 Services with 50,000 endpoints in files of a hundred, as
// YAML and as JSON, and says how much of the heap they keep.
func BenchmarkDecode(b *testing.B) {
	for _, form := range []string{"yaml", "json"} {
		b.Run(form, func(b *testing.B) {
			var files [][]byte
			size := 0
			for f := range 100 {
				var text bytes.Buffer
				for i := range 100 {
					text.WriteString("---\n" + serviceYAML(f*100+i))
				}
				files = append(files, text.Bytes())
				if form == "json" {
					files[f] = asList(b, text.Bytes())
				}
				size += len(files[f])
			}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				before := heap()
				kept := make([]objects, 0, len(files))
				for _, data := range files {
					o, err := decode(data)
					if err != nil || len(o.services) != 100 || len(o.slices) != 100 {
						b.Fatal(len(o.services), len(o.slices), err)
					}
					kept = append(kept, o)
				}
				b.ReportMetric(float64(heap()-before)/(1<<20), "MiB")
				runtime.KeepAlive(kept)
			}
		})
	}
}

// asList is a YAML stream as a JSON List.
func asList(b *testing.B, stream []byte) []byte {
	var items [][]byte
	for _, doc := range documents(stream) {
		js, err := yaml.YAMLToJSON(doc)
		if err != nil {
			b.Fatal(err)
		}
		if string(js) != "null" {
			items = append(items, js)
		}
	}
	return []byte(`{"apiVersion":"v1","kind":"List","items":[` + string(bytes.Join(items, []byte(","))) + "]}")
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkDerive makes the slices of 250 Services and 1000 pods on 50 nodes; half of
// the Services have a target port with a name, and all pods have a label in common.
func BenchmarkDerive(b *testing.B) {
	var text bytes.Buffer
	for n := range 50 {
		text.WriteString(nodeYAML(fmt.Sprintf("node-%d", n), n) + "---\n")
	}
	for n := range 250 {
		target := []string{"http", "8080"}[n%2]
		fmt.Fprintf(&text, "{apiVersion: v1, kind: Service, metadata: {name: s%d}, spec: {clusterIPs: [10.96.0.%d, 'fd00:96::%x'], selector: {app: s%d, env: prod}, ports: [{name: http, port: 80, targetPort: %s}]}}\n---\n", n, n+1, n+1, n, target)
	}
	for n := range 1000 {
		fmt.Fprintf(&text, "{apiVersion: v1, kind: Pod, metadata: {name: p%d, uid: u%d, labels: {app: s%d, env: prod, hash: 7d4b}}, spec: {nodeName: node-%d, containers: [{ports: [{name: http, containerPort: 8080}]}]}, status: {podIPs: [{ip: 10.0.%d.%d}, {ip: 'fd00::%x'}]}}\n---\n",
			n, n, n%250, n%50, n/250, n%250+1, n+1)
	}
	o, err := decode(text.Bytes())
	if err != nil {
		b.Fatal(err)
	}
	v := view{root: []named{{objects: o}}}
	whole := build(v, nil, nil, newKinds())
	if got := whole.Slices.Len(); got != 500 || len(whole.flat[0].Endpoints) != 4 || len(whole.Problems) != 0 {
		b.Fatal(got, whole.Problems)
	}
	b.ReportAllocs()
	for b.Loop() {
		s := State{Nodes: whole.Nodes, Pods: whole.Pods, Services: whole.Services}
		s.flat = nil
		derive(&s, served{})
	}
}

// BenchmarkBuild makes the state of 10,000 Services and 50,000 endpoints from files that
// have been read, one of them anew.
func BenchmarkBuild(b *testing.B) {
	d, err := Open("dir:/none", Options{Node: "node-a"})
	if err != nil {
		b.Fatal(err)
	}
	for f := range 100 {
		var text bytes.Buffer
		for i := range 100 {
			text.WriteString("---\n" + serviceYAML(f*100+i))
		}
		o, err := decode(text.Bytes())
		if err != nil {
			b.Fatal(err)
		}
		d.view.root = append(d.view.root, named{file: fmt.Sprint(f), objects: o})
	}
	for b.Loop() {
		d.stale = true
		if s := d.Snapshot(); s.Slices.Len() != 10000 || len(s.Services) != 10000 {
			b.Fatal(s.Slices.Len(), len(s.Services))
		}
	}
}
