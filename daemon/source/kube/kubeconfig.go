package kube

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	clientcmd "k8s.io/client-go/tools/clientcmd/api/v1"
	"sigs.k8s.io/yaml"
)

// cluster is the cluster of a kubeconfig's current context.
type cluster struct {
	server      Server
	authorities []byte // PEM; empty: the system's
}

// loadKubeconfig reads the cluster and the user of the current context. Paths in it are
// relative to its folder.
func loadKubeconfig(path string) (cluster, clientcmd.AuthInfo, error) {
	wrong := func(format string, args ...any) (cluster, clientcmd.AuthInfo, error) {
		return cluster{}, clientcmd.AuthInfo{}, fmt.Errorf("kubeconfig %s: %w", path, fmt.Errorf(format, args...))
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return wrong("%w", err)
	}
	var c clientcmd.Config
	if err := yaml.Unmarshal(b, &c); err != nil {
		return wrong("%w", err)
	}
	var context clientcmd.Context
	found := len(c.Contexts) == 1 && c.CurrentContext == ""
	for _, x := range c.Contexts {
		if found || x.Name == c.CurrentContext {
			context, found = x.Context, true
		}
	}
	if !found {
		return wrong("there is no context %q: set current-context to one that there is", c.CurrentContext)
	}
	var in clientcmd.Cluster
	found = false
	for _, x := range c.Clusters {
		if x.Name == context.Cluster {
			in, found = x.Cluster, true
		}
	}
	if !found {
		return wrong("there is no cluster %q", context.Cluster)
	}
	switch {
	case in.InsecureSkipTLSVerify:
		return wrong("insecure-skip-tls-verify is not supported: give it the certificate-authority")
	case in.ProxyURL != "":
		return wrong("proxy-url is not supported")
	}
	var out cluster
	if out.server, err = parseURL(in.Server); err != nil {
		return wrong("server: %w", err)
	}
	if in.TLSServerName != "" {
		out.server.Name = in.TLSServerName
	}
	out.authorities, err = dataOrFile(path, in.CertificateAuthorityData, in.CertificateAuthority)
	if err != nil {
		return wrong("certificate-authority: %w", err)
	}
	for _, x := range c.AuthInfos {
		if x.Name == context.AuthInfo {
			return out, x.AuthInfo, nil
		}
	}
	return out, clientcmd.AuthInfo{}, nil
}

// readCluster reads the cluster of the kubelet's kubeconfig.
func readCluster(path string) (cluster, error) {
	if path == "" {
		return cluster{}, errors.New("kubelet-kubeconfig is not set")
	}
	c, _, err := loadKubeconfig(path)
	return c, err
}

// readKubeconfig reads all that is needed from one kubeconfig.
func readKubeconfig(path string) (access, error) {
	c, user, err := loadKubeconfig(path)
	if err != nil {
		return access{}, err
	}
	wrong := func(format string, args ...any) (access, error) {
		return access{}, fmt.Errorf("kubeconfig %s: %w", path, fmt.Errorf(format, args...))
	}
	a := access{servers: []Server{c.server}}
	if len(c.authorities) > 0 {
		a.roots = x509.NewCertPool()
		if !a.roots.AppendCertsFromPEM(c.authorities) {
			return wrong("certificate-authority: there is no certificate in it")
		}
	}
	cert, err := dataOrFile(path, user.ClientCertificateData, user.ClientCertificate)
	if err != nil {
		return wrong("client-certificate: %w", err)
	}
	key, err := dataOrFile(path, user.ClientKeyData, user.ClientKey)
	if err != nil {
		return wrong("client-key: %w", err)
	}
	switch {
	case user.Exec != nil, user.AuthProvider != nil, user.Username != "":
		return wrong("the user has exec, auth-provider or username: use token, tokenFile or client-certificate")
	case user.TokenFile != "":
		a.token = fromFile(beside(path, user.TokenFile))
	case user.Token != "":
		a.token = func() (string, error) { return user.Token, nil }
	case len(cert) == 0:
		return wrong("the user has no credentials: give it token, tokenFile or client-certificate")
	}
	if a.token != nil {
		if _, err := a.token(); err != nil {
			return wrong("tokenFile: %w", err)
		}
	}
	if len(cert) > 0 {
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return wrong("client-certificate: %w", err)
		}
		a.certificates = []tls.Certificate{pair}
	}
	return a, nil
}

func dataOrFile(kubeconfig string, data []byte, file string) ([]byte, error) {
	if len(data) > 0 || file == "" {
		return data, nil
	}
	return os.ReadFile(beside(kubeconfig, file))
}

func beside(kubeconfig, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(kubeconfig), path)
}
