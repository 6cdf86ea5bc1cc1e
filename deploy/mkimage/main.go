// Command mkimage writes Weft's container images to files; `make image` calls it. It
// needs the binaries, and for Weft's own image apt-get and dpkg-deb.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/weftnet/weft/deploy/image"
)

const usage = `usage: mkimage [flags] weft | example

weft     the daemon, the plugin, the CLI, and iptables of this machine's Debian
example  the program of examples/

`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := mkimage(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

func mkimage(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("mkimage", flag.ExitOnError)
	flags.Usage = func() { fmt.Fprint(flags.Output(), usage); flags.PrintDefaults() }
	bin := flags.String("bin", "bin", "folder of the binaries")
	cache := flags.String("cache", defaultCache(), "folder in which Debian packages are kept")
	name := flags.String("name", "", "name of the image, with its tag")
	out := flags.String("out", "", "file to write")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *name == "" || *out == "" || flags.NArg() != 1 {
		flags.Usage()
		return fmt.Errorf("-name, -out and one image are needed")
	}
	var img image.Image
	var err error
	switch which := flags.Arg(0); which {
	case "weft":
		img, err = weft(ctx, *bin, *cache)
	case "example":
		img, err = example(*bin)
	default:
		flags.Usage()
		return fmt.Errorf("there is no image %q", which)
	}
	if err != nil {
		return err
	}
	img.Name = *name
	return write(img, *out)
}

// write replaces the file in one step.
func write(img image.Image, path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".image-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // after the rename there is none
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	digest, err := img.Write(w)
	if err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	size, err := f.Seek(0, 1)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	fmt.Printf("%s %s@%s %.1f MB\n", path, img.Name, digest, float64(size)/1e6)
	return nil
}

// defaultCache is where Weft keeps what it downloads.
func defaultCache() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	return filepath.Join(dir, "weft", "debs")
}
