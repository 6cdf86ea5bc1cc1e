package plugin

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"

	"github.com/weftnet/weft/internal/api"
)

// printResult writes the daemon's result, which is one of CNI 1.1.0, in the version
// that the configuration asks for. One of 1.1.0 is passed on as it is: to take it apart
// would cost a plugin that lives for some milliseconds a twentieth of them.
func printResult(w io.Writer, daemons json.RawMessage, version string) error {
	if version == "1.1.0" {
		_, err := w.Write(append(daemons, '\n'))
		return err
	}
	var r types100.Result
	if err := json.Unmarshal(daemons, &r); err != nil {
		return fmt.Errorf("read the daemon's result: %w", err)
	}
	strip11(&r)
	asked, err := r.GetAsVersion(version)
	if err != nil {
		return fmt.Errorf("convert result to CNI %s: %w", version, err)
	}
	if err := asked.PrintTo(w); err != nil {
		return fmt.Errorf("encode result: %w", err)
	}
	return nil
}

// strip11 removes what CNI 1.1.0 added to results (SPEC 1.1.0, "Success"). The
// conversion to 1.0.0 would keep it.
func strip11(r *types100.Result) {
	for _, i := range r.Interfaces {
		i.Mtu, i.SocketPath, i.PciID = 0, "", ""
	}
	for i, route := range r.Routes {
		r.Routes[i] = &types.Route{Dst: route.Dst, GW: route.GW}
	}
}

// previous puts a prevResult of any version into the request as one of 1.1.0.
func (c *conf) previous(a *api.Attach) error {
	raw := c.keys["prevResult"]
	if raw == nil || string(raw) == "null" {
		return nil
	}
	r, err := create.Create(c.CNIVersion, raw)
	if err == nil {
		r, err = r.GetAsVersion("1.1.0")
	}
	if err == nil {
		a.PrevResult, err = json.Marshal(r)
	}
	if err != nil {
		return badKey("prevResult", "%v", err)
	}
	return nil
}
