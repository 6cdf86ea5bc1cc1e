package kube

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weftnet/weft/daemon/source"
)

func TestServersAreParsed(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want []Server
		err  string
	}{
		{in: "", want: nil},
		{in: "10.0.0.1", want: []Server{{"10.0.0.1:6443", "10.0.0.1"}}},
		{in: "10.0.0.1:443, api.example.com", want: []Server{{"10.0.0.1:443", "10.0.0.1"}, {"api.example.com:6443", "api.example.com"}}},
		{in: "fd00::1", want: []Server{{"[fd00::1]:6443", "fd00::1"}}},
		{in: "[fd00::1]:7443", want: []Server{{"[fd00::1]:7443", "fd00::1"}}},
		{in: "https://api.example.com", want: []Server{{"api.example.com:443", "api.example.com"}}},
		{in: "https://[fd00::1]:6443/", want: []Server{{"[fd00::1]:6443", "fd00::1"}}},
		{in: "http://10.0.0.1", err: "only https"},
		{in: "https://example.com/k8s/clusters/c-1", err: "below a path"},
		{in: "https://", err: "names no host"},
		{in: "10.0.0.1:0", err: "not a port"},
		{in: "10.0.0.1:https", err: "not a port"},
		{in: "a:b:c", err: "not HOST:PORT"},
		{in: "two words", err: "names no host"},
	} {
		got, err := ParseServers(tc.in)
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%q: error %v, want %q", tc.in, err, tc.err)
			}
			continue
		}
		if err != nil || !slices.Equal(got, tc.want) {
			t.Errorf("%q: got %v, %v, want %v", tc.in, got, err, tc.want)
		}
	}
}

func TestPreflightSaysWhatIsMissing(t *testing.T) {
	remove := func(p *place, name string) {
		if err := os.RemoveAll(filepath.Join(p.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	write := func(p *place, name, text string) {
		if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	kubeconfig := func(p *place, old, now string) {
		p.opts.Kubeconfig = filepath.Join(p.dir, "kubeconfig")
		p.Kubeconfig(p.opts.Kubeconfig, "127.0.0.1:1", "token")
		b, err := os.ReadFile(p.opts.Kubeconfig)
		if err != nil || !strings.Contains(string(b), old) {
			t.Fatal(err, string(b))
		}
		write(p, "kubeconfig", strings.Replace(string(b), old, now, 1))
	}
	for _, tc := range []struct {
		name string
		make func(*place)
		want []string // parts of the message; none: it is well
	}{
		{"servers and service account", func(p *place) { p.servers("10.0.0.1") }, nil},
		{"kubelet's server", func(p *place) { p.Kubeconfig(p.opts.Kubelet, "10.0.0.1:6443", "") }, nil},
		{"servers known last", func(p *place) { write(p, "servers.json", `{"servers":["10.0.0.1:6443"]}`) }, nil},
		{"a kubeconfig", func(p *place) { kubeconfig(p, "", "") }, nil},
		{"the authority is the kubelet's", func(p *place) { p.Kubeconfig(p.opts.Kubelet, "10.0.0.1:6443", ""); remove(p, "ca.crt") }, nil},
		{"the kubelet's authority is a file that the pod does not see", func(p *place) {
			p.Kubeconfig(p.opts.Kubelet, "10.0.0.1:6443", "")
			remove(p, "kubelet.conf.ca.crt")
		}, nil},
		{"no token", func(p *place) { p.servers("10.0.0.1"); remove(p, "token") }, []string{"token", "automountServiceAccountToken", "kube:/PATH"}},
		{"empty token", func(p *place) { p.servers("10.0.0.1"); write(p, "token", "\n") }, []string{"token is empty"}},
		{"no authority", func(p *place) { p.servers("10.0.0.1"); remove(p, "ca.crt") }, []string{"no certificate of the cluster's authority", "kubelet.conf"}},
		{"no server", func(*place) {}, []string{"no API server is known", "api-servers", "kubelet-kubeconfig", "kubelet.conf: no such file"}},
		{"no kubeconfig", func(p *place) { p.opts.Kubeconfig = filepath.Join(p.dir, "none") }, []string{"none: no such file"}},
		{"kubeconfig of no context", func(p *place) { kubeconfig(p, "current-context: x", "current-context: z") }, []string{`no context "z"`, "current-context"}},
		{"kubeconfig of no cluster", func(p *place) { kubeconfig(p, "cluster: c,", "cluster: d,") }, []string{`no cluster "d"`}},
		{"kubeconfig of no user", func(p *place) { kubeconfig(p, "user: u}", "user: v}") }, []string{"no credentials"}},
		{"kubeconfig without its authority", func(p *place) { kubeconfig(p, "kubeconfig.ca.crt", "other.crt") }, []string{"certificate-authority", "other.crt"}},
		{"kubeconfig that trusts anybody", func(p *place) {
			kubeconfig(p, "certificate-authority: kubeconfig.ca.crt", "insecure-skip-tls-verify: true")
		}, []string{"insecure-skip-tls-verify is not supported"}},
		{"kubeconfig with a program", func(p *place) { kubeconfig(p, "token: token", "exec: {command: aws, apiVersion: x}") }, []string{"exec", "use token"}},
		{"kubeconfig with half a certificate", func(p *place) { kubeconfig(p, "token: token", "client-certificate: kubeconfig.ca.crt") }, []string{"client-certificate"}},
		{"kubeconfig that is not YAML", func(p *place) { kubeconfig(p, "kind: Config", "kind: [") }, []string{"yaml"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPlace(t)
			tc.make(p)
			err := Preflight(p.opts)
			if tc.want == nil && err != nil {
				t.Error(err)
			}
			for _, want := range tc.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error: got %v, want %q", err, want)
				}
			}
		})
	}
}

func TestCertificateMustBeOfAnAPIServer(t *testing.T) {
	for _, tc := range []struct {
		name  string
		names []string
		other bool // another cluster's authority signed it
		well  bool
	}{
		{"the name of all API servers", []string{"kubernetes.default.svc"}, false, true},
		{"the address", []string{"127.0.0.1"}, false, true},
		{"another node", []string{"node-b", "192.0.2.1"}, false, false},
		{"another cluster", []string{"kubernetes.default.svc", "127.0.0.1"}, true, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, other := newPlace(t), newPlace(t)
			serving := p
			if tc.other {
				serving = other
			}
			p.servers(serving.Serve(tc.names...).Addr)
			p.Put(mkNode("node-a", 1))
			p.start()
			if tc.well {
				p.until("synced", nodes(1))
				return
			}
			p.until("it is refused", func(s source.State) bool { return hasProblem(s, ProblemAPI, "certificate") })
			if asked := serving.Asked(); len(asked) > 0 {
				t.Errorf("it is asked: %q", asked)
			}
		})
	}
}

// An address that the API told need not be in the certificate; a name that somebody
// configured may be another's.
func TestLearntServerMustHaveTheCommonName(t *testing.T) {
	p := newPlace(t)
	server := p.Serve("127.0.0.1")
	if err := writeLearnt(p.opts.StateFile, []Server{{Address: server.Addr}}); err != nil {
		t.Fatal(err)
	}
	p.start()
	p.until("it is refused", func(s source.State) bool { return hasProblem(s, ProblemAPI, server.Addr, "kubernetes.default.svc") })
}

func TestKubeconfigIsAllThatIsNeeded(t *testing.T) {
	for _, form := range []string{"token", "certificate"} {
		t.Run(form, func(t *testing.T) {
			p := newPlace(t)
			p.opts.Kubeconfig, p.opts.Kubelet, p.opts.serviceAccount = filepath.Join(p.dir, "kubeconfig"), "", "/none"
			p.Allow("token-1", false)
			addr := p.Serve().Addr
			if form == "token" {
				p.Kubeconfig(p.opts.Kubeconfig, addr, "token-k")
			} else {
				p.KubeconfigWithCertificate(p.opts.Kubeconfig, addr)
			}
			p.Put(mkNode("node-a", 1))
			p.start()
			p.until("synced", nodes(1))
			p.until("no problem", well)
		})
	}
}
