package kube

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"

	clientcmd "k8s.io/client-go/tools/clientcmd/api/v1"
	"sigs.k8s.io/yaml"
)

// kubeconfig is the current context of such a file. Paths in it are relative to its
// folder.
type kubeconfig struct {
	path    string
	server  Server
	cluster clientcmd.Cluster
	user    clientcmd.AuthInfo
}

func loadKubeconfig(path string) (kubeconfig, error) {
	k := kubeconfig{path: path}
	b, err := os.ReadFile(path)
	if err != nil {
		return k, k.wrong("%w", err)
	}
	var c clientcmd.Config
	if err := yaml.Unmarshal(b, &c); err != nil {
		return k, k.wrong("%w", err)
	}
	var context clientcmd.Context
	found := false
	for _, x := range c.Contexts {
		if x.Name == c.CurrentContext {
			context, found = x.Context, true
		}
	}
	if !found {
		return k, k.wrong("there is no context %q: set current-context to one that there is", c.CurrentContext)
	}
	found = false
	for _, x := range c.Clusters {
		if x.Name == context.Cluster {
			k.cluster, found = x.Cluster, true
		}
	}
	if !found {
		return k, k.wrong("there is no cluster %q", context.Cluster)
	}
	for _, x := range c.AuthInfos {
		if x.Name == context.AuthInfo {
			k.user = x.AuthInfo
		}
	}
	switch {
	case k.cluster.InsecureSkipTLSVerify:
		return k, k.wrong("insecure-skip-tls-verify is not supported: give it the certificate-authority")
	case k.cluster.ProxyURL != "":
		return k, k.wrong("proxy-url is not supported")
	}
	if k.server, err = parseURL(k.cluster.Server); err != nil {
		return k, k.wrong("server: %w", err)
	}
	if name := k.cluster.TLSServerName; name != "" {
		k.server.Name = name
	}
	return k, nil
}

func (k kubeconfig) wrong(format string, args ...any) error {
	return fmt.Errorf("kubeconfig %s: %w", k.path, fmt.Errorf(format, args...))
}

// authorities is the certificates of who signs for the cluster, PEM; empty: the system
// knows.
func (k kubeconfig) authorities() ([]byte, error) {
	pem, err := k.dataOrFile(k.cluster.CertificateAuthorityData, k.cluster.CertificateAuthority)
	if err != nil {
		return nil, k.wrong("certificate-authority: %w", err)
	}
	return pem, nil
}

// access is all that is needed, from this one file.
func (k kubeconfig) access() (access, error) {
	a := access{servers: []Server{k.server}}
	pem, err := k.authorities()
	if err != nil {
		return a, err
	}
	if len(pem) > 0 {
		a.roots = x509.NewCertPool()
		if !a.roots.AppendCertsFromPEM(pem) {
			return a, k.wrong("certificate-authority: there is no certificate in it")
		}
	}
	cert, err := k.dataOrFile(k.user.ClientCertificateData, k.user.ClientCertificate)
	if err != nil {
		return a, k.wrong("client-certificate: %w", err)
	}
	key, err := k.dataOrFile(k.user.ClientKeyData, k.user.ClientKey)
	if err != nil {
		return a, k.wrong("client-key: %w", err)
	}
	switch token := k.user.Token; {
	case k.user.Exec != nil, k.user.AuthProvider != nil, k.user.Username != "":
		return a, k.wrong("the user has exec, auth-provider or username: use token, tokenFile or client-certificate")
	case k.user.TokenFile != "":
		a.token = fromFile(k.beside(k.user.TokenFile))
	case token != "":
		a.token = func() (string, error) { return token, nil }
	case len(cert) == 0:
		return a, k.wrong("the user has no credentials: give it token, tokenFile or client-certificate")
	}
	if a.token != nil {
		if _, err := a.token(); err != nil {
			return a, k.wrong("tokenFile: %w", err)
		}
	}
	if len(cert) > 0 {
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return a, k.wrong("client-certificate: %w", err)
		}
		a.certificates = []tls.Certificate{pair}
	}
	return a, nil
}

func (k kubeconfig) dataOrFile(data []byte, file string) ([]byte, error) {
	if len(data) > 0 || file == "" {
		return data, nil
	}
	return os.ReadFile(k.beside(file))
}

func (k kubeconfig) beside(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(k.path), path)
}
