// Package plugin is the CNI plugin: it turns the runtime's calls into requests to the
// daemon, and installs itself with its network configuration.
//
// It holds no state and does nothing to the network. What it must be able to do
// without the daemon is two things: note a DEL in a file (a tombstone), and answer
// STATUS at once.
package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/ns"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/weftnet/weft/internal/api"
)

// How long the daemon may take. The runtimes' own limits (kubelet 4 min for ADD and
// 2 min for DEL, CRI-O 1 min for DEL and 30 s for GC) are longer, except that of
// STATUS: containerd sets none, and holds up its own status meanwhile, for which the
// kubelet asks every 5 s. A busy node's daemon may have to wait for a processor, and must
// not make the node NotReady by that.
const (
	addTimeout    = time.Minute
	delTimeout    = 4 * time.Second // then a tombstone does it
	checkTimeout  = 10 * time.Second
	gcTimeout     = 25 * time.Second
	statusTimeout = 2 * time.Second // a daemon that is dead is told at once
)

// Supported returns the versions of CNI that the plugin speaks, oldest first.
func Supported() []string { return []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} }

// call is one invocation.
type call struct {
	version string // of the configuration; empty until it was read
	stdout  bytes.Buffer
}

// Main is the whole of weft-cni: it reads environment and standard input, writes
// nothing but the result or the error to standard output, and exits.
func Main() {
	var c call
	err := skel.PluginMainFuncsWithError(skel.CNIFuncs{
		Add: c.add, Del: c.del, Check: c.check, GC: c.gc, Status: c.status,
	}, version.PluginSupports(Supported()...), "weft-cni: the CNI plugin of Weft; a container runtime calls it")
	if err != nil {
		c.printError(err)
		os.Exit(1)
	}
	if _, err := os.Stdout.Write(c.stdout.Bytes()); err != nil {
		fmt.Fprintln(os.Stderr, "weft-cni: write result:", err)
		os.Exit(1)
	}
}

// printError writes an error as CNI SPEC 1.1.0, "Error", wants it: with the version
// of the configuration, which skel leaves out.
func (c *call) printError(e *types.Error) {
	if c.version == "" {
		c.version = version.Current()
	}
	code := e.Code
	if code == types.ErrInternal {
		code = api.CodeInternal
	}
	b, err := json.Marshal(struct {
		CNIVersion string `json:"cniVersion"`
		Code       uint   `json:"code"`
		Msg        string `json:"msg"`
		Details    string `json:"details,omitempty"`
	}{c.version, code, e.Msg, e.Details})
	if err == nil {
		_, err = os.Stdout.Write(append(b, '\n'))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "weft-cni: write error:", err)
	}
}

func (c *call) add(args *skel.CmdArgs) error {
	conf, err := c.strict(args)
	if err != nil {
		return cniError(err)
	}
	a, err := conf.attach(args)
	if err != nil {
		return cniError(err)
	}
	if err := checkNetns(args); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), addTimeout)
	defer cancel()
	result, err := api.NewClient(conf.Socket).Add(ctx, a)
	if err != nil {
		return cniError(err)
	}
	return cniError(printResult(&c.stdout, result, c.version))
}

// checkNetns refuses the plugin's own namespace before anything is done; skel does
// so only after ADD has succeeded.
func checkNetns(args *skel.CmdArgs) error {
	if o := args.NetnsOverride; strings.EqualFold(o, "true") || o == "1" {
		return nil
	}
	same, err := ns.CheckNetNS(args.Netns)
	if err != nil {
		return err
	}
	if same {
		return types.NewError(types.ErrInvalidNetNS, "the container's network namespace is the host's", args.Netns)
	}
	return nil
}

// del needs little of the configuration, and does not let the rest of it stop it.
func (c *call) del(args *skel.CmdArgs) error {
	conf, err := c.lenient(args)
	if err != nil {
		return cniError(err)
	}
	a := api.Attach{ContainerID: args.ContainerID, IfName: args.IfName, Netns: args.Netns, Network: conf.Name}
	if err := a.Validate(); err != nil {
		return cniError(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), delTimeout)
	defer cancel()
	err = api.NewClient(conf.Socket).Del(ctx, a)
	if errors.Is(err, api.ErrNoDaemon) {
		cause := err
		if err = writeTombstone(conf.StateDir, a); err == nil {
			fmt.Fprintf(os.Stderr, "weft-cni: %v; left a tombstone for %s/%s\n", cause, a.ContainerID, a.IfName)
		}
	}
	var refused *api.Error
	if errors.As(err, &refused) && refused.Code == api.CodeUnknown {
		return nil
	}
	return cniError(err)
}

func (c *call) check(args *skel.CmdArgs) error {
	conf, err := c.strict(args)
	if err != nil {
		return cniError(err)
	}
	a, err := conf.attach(args)
	if err != nil {
		return cniError(err)
	}
	if a.PrevResult == nil {
		return types.NewError(types.ErrInvalidNetworkConfig, "CHECK needs the key prevResult", "")
	}
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	return cniError(api.NewClient(conf.Socket).Check(ctx, a))
}

func (c *call) gc(args *skel.CmdArgs) error {
	conf, err := c.lenient(args)
	if err != nil {
		return cniError(err)
	}
	valid, err := conf.validAttachments()
	if err != nil {
		return cniError(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), gcTimeout)
	defer cancel()
	return cniError(api.NewClient(conf.Socket).GC(ctx, api.GC{Network: conf.Name, Valid: valid}))
}

// status reports 50, or 51 if pods exist, when there is no daemon to ask.
func (c *call) status(args *skel.CmdArgs) error {
	conf, err := c.strict(args)
	if err != nil {
		return cniError(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), statusTimeout)
	defer cancel()
	err = api.NewClient(conf.Socket).CNIStatus(ctx)
	if errors.Is(err, api.ErrNoDaemon) {
		if podsExist(conf.StateDir) {
			return types.NewError(types.ErrLimitedConnectivity, "the Weft daemon does not answer; new pods wait, and existing ones get no updates", err.Error())
		}
		return types.NewError(types.ErrPluginNotAvailable, "the Weft daemon does not answer", err.Error())
	}
	var refused *api.Error
	if errors.As(err, &refused) && refused.Code != api.CodeLimited {
		return types.NewError(types.ErrPluginNotAvailable, refused.Msg, refused.Details)
	}
	return cniError(err)
}

// podsExist reports whether the daemon has left attachments.
func podsExist(stateDir string) bool {
	d, err := os.Open(filepath.Join(stateDir, api.AttachmentDir))
	if err != nil {
		return false
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(64)
		for _, name := range names {
			if strings.HasSuffix(name, ".json") {
				return true
			}
		}
		if err != nil {
			return false
		}
	}
}

// cniError gives an error its code; nil stays nil.
func cniError(err error) error {
	var e *api.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		return types.NewError(e.Code, e.Msg, e.Details)
	case errors.Is(err, api.ErrNoDaemon):
		return types.NewError(types.ErrTryAgainLater, "the Weft daemon does not answer, try again later", err.Error())
	}
	return types.NewError(api.CodeInternal, err.Error(), "")
}
