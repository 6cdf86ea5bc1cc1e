package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/weftnet/weft/e2e/kind/proc"
	"github.com/weftnet/weft/internal/testnet"
)

// controlPlane are the programs that run as static pods or as kube-system's.
var controlPlane = []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy"}

func controlPlaneImage(part string) string { return "registry.k8s.io/" + part + ":" + kubernetes }

// controlPlaneImages writes the archive of the images that kubeadm asks for, but pause.
func (n NodeImage) controlPlaneImages(s *Store, file, scratch string) error {
	a, err := newArchive(file)
	if err != nil {
		return err
	}
	add := func(name string, config imageConfig, at, from string, base ...layer) error {
		l, err := addLayer(a, scratch, entry{path: at, from: from})
		if err != nil {
			return err
		}
		return a.Image([]string{name}, config, append(base, l)...)
	}
	path := imageConfig{Env: []string{"PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}}
	for _, part := range controlPlane {
		var base []layer
		if part == "kube-proxy" { // it runs iptables, nft and conntrack
			l, err := a.Layer(s.Path(n.Tests.Tree))
			if err != nil {
				return errors.Join(err, a.Close())
			}
			base = append(base, l)
		}
		err := add(controlPlaneImage(part), path, "usr/local/bin/"+part, filepath.Join(s.Path(n.Kubernetes), part), base...)
		if err != nil {
			return errors.Join(err, a.Close())
		}
	}
	return errors.Join(
		add(etcdImage, path, "usr/local/bin/etcd", filepath.Join(s.Path(n.Etcd), "etcd")),
		add(corednsImage, imageConfig{Entrypoint: []string{"/coredns"}}, "coredns", filepath.Join(s.Path(n.CoreDNS), "coredns")),
		a.Close())
}

// fillImageStore makes containerd's folder with all images in it, not unpacked: what a
// node never runs costs it no time. A containerd of our own does it, without a network,
// in the folder scratch.
func (n NodeImage) fillImageStore(ctx context.Context, s *Store, root, scratch string) (err error) {
	if err := os.MkdirAll(scratch, 0o755); err != nil {
		return fmt.Errorf("fill image store: %w", err)
	}
	system := filepath.Join(scratch, "system.tar")
	if err := n.controlPlaneImages(s, system, scratch); err != nil {
		return err
	}
	run := s.runDir()
	if err := os.MkdirAll(run, 0o700); err != nil {
		return fmt.Errorf("fill image store: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(run)) }()
	config, socket := filepath.Join(run, "config.toml"), filepath.Join(run, "s")
	// No plugin that acts outside of these folders.
	if err := os.WriteFile(config, fmt.Appendf(nil, `version = 3
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri"]
[plugins."io.containerd.internal.v1.opt"]
path = %q
`, filepath.Join(run, "opt")), 0o644); err != nil {
		return fmt.Errorf("fill image store: %w", err)
	}
	log, err := s.buildLog("containerd")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	bin := s.Path(n.Containerd)
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	daemon := proc.Command(running, filepath.Join(bin, "containerd"), "--config", config, "--root", root,
		"--state", filepath.Join(run, "state"), "--address", socket)
	daemon.Stdout, daemon.Stderr = log, log
	wait, err := proc.Start(daemon)
	if err != nil {
		return err
	}
	ctr := func(args ...string) error {
		return proc.Run(proc.Command(ctx, filepath.Join(bin, "ctr"), append([]string{"--address", socket, "--namespace", "k8s.io"}, args...)...))
	}
	starting, stop := context.WithTimeout(ctx, 30*time.Second)
	defer stop()
	err = testnet.Wait(starting, func() error { return ctr("version") })
	for _, archive := range []string{system, n.Tests.Archive(s)} {
		if err == nil {
			err = ctr("images", "import", "--local", "--no-unpack", archive)
		}
	}
	cancel()
	if ended := wait(); !errors.Is(ended, context.Canceled) {
		err = errors.Join(err, ended) // by itself, or not in good order
	}
	if err != nil {
		return fmt.Errorf("fill image store: %w", err)
	}
	return nil
}
