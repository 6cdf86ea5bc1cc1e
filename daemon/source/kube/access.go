package kube

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// DefaultKubelet is where kubeadm, and so kind, puts the kubelet's kubeconfig.
const DefaultKubelet = "/etc/kubernetes/kubelet.conf"

// serviceAccount is where the kubelet puts a pod's own credentials.
const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"

// access is how API servers are spoken to: who they are, and who we are. It is read from
// the files anew for each connection, the token for each request: all of them rotate.
type access struct {
	servers      []Server
	roots        *x509.CertPool // nil: the system's
	certificates []tls.Certificate
	token        func() (string, error) // nil: none
	missing      error                  // why servers is empty
}

// readAccess reads all that the options name. Without a kubeconfig the credentials are the
// service account's, and of the kubelet's kubeconfig only the cluster is used: it need not
// be there if servers are known without it.
func readAccess(o Options) (access, error) {
	if o.Kubeconfig == "" {
		return podAccess(o)
	}
	k, err := loadKubeconfig(o.Kubeconfig)
	if err != nil {
		return access{}, err
	}
	a, err := k.access()
	a.servers = append(slices.Clone(o.Servers), a.servers...)
	return a, err
}

func podAccess(o Options) (access, error) {
	a := access{servers: slices.Clone(o.Servers), token: fromFile(filepath.Join(o.serviceAccount, "token"))}
	if _, err := a.token(); err != nil {
		return a, fmt.Errorf("credentials of the pod: %w: let the pod have its service account's token (automountServiceAccountToken), or use source kube:/PATH with a kubeconfig", err)
	}
	pem, err := os.ReadFile(filepath.Join(o.serviceAccount, "ca.crt"))
	kubelet, kubeletErr := loadKubeconfig(o.Kubelet)
	if o.Kubelet == "" {
		kubeletErr = errors.New("neither is set")
	}
	if kubeletErr == nil {
		a.servers = append(a.servers, kubelet.server)
		// It may name a file that the pod does not see: the pod has the authority, too.
		more, moreErr := kubelet.authorities()
		pem = slices.Concat(pem, []byte("\n"), more)
		err = errors.Join(err, moreErr)
	}
	a.roots = x509.NewCertPool()
	if !a.roots.AppendCertsFromPEM(pem) {
		return a, fmt.Errorf("no certificate of the cluster's authority, neither in the pod's ca.crt nor in %s: %w", o.Kubelet, errors.Join(err, kubeletErr))
	}
	if len(a.servers) == 0 {
		a.missing = fmt.Errorf("no API server is known: set api-servers to their addresses, or kubelet-kubeconfig to the file by which this node's kubelet finds its own: %w", kubeletErr)
	}
	return a, nil
}

// fromFile gives a file's text, as it is when it is asked for.
func fromFile(path string) func() (string, error) {
	return func() (string, error) {
		b, err := os.ReadFile(path)
		text := strings.TrimSpace(string(b))
		if err == nil && text == "" {
			err = fmt.Errorf("%s is empty", path)
		}
		return text, err
	}
}
