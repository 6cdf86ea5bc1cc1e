package plugin

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/weftnet/weft/internal/api"
)

// Chained is a plugin that the runtime calls after ours: for ADD and CHECK with our result,
// for DEL before us. Its binary is not ours to install.
type Chained struct {
	Type         string
	Capabilities map[string]bool // what it asks the runtime for
	Conf         json.RawMessage // all of it, as it stands in the conflist
}

// ParseChain reads a JSON list of plugins' configurations, as they stand in a conflist.
// An empty text is an empty list.
func ParseChain(text string) ([]Chained, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	var confs []json.RawMessage
	if err := json.Unmarshal([]byte(text), &confs); err != nil {
		return nil, fmt.Errorf(`not a JSON list as in [{"type": "tuning"}]: %w`, err)
	}
	var chain []Chained
	for i, conf := range confs {
		var c struct {
			Type         string          `json:"type"`
			Capabilities map[string]bool `json:"capabilities"`
		}
		if err := json.Unmarshal(conf, &c); err != nil {
			return nil, fmt.Errorf("plugin %d: %w", i+1, err)
		}
		switch {
		case c.Type == "" || c.Type != filepath.Base(c.Type):
			return nil, fmt.Errorf("plugin %d: the type %q is no name of a binary in cni-bin-dir", i+1, c.Type)
		case c.Type == api.PluginType:
			return nil, fmt.Errorf("plugin %d: %s comes before the list by itself", i+1, c.Type)
		}
		chain = append(chain, Chained{c.Type, c.Capabilities, conf})
	}
	return chain, nil
}

// capabilities are what we ask the runtime for. Host ports and limits of bandwidth are done
// by one: if a plugin of the chain asks for them, by that one.
func capabilities(chain []Chained) map[string]bool {
	ours := map[string]bool{"ips": true, "mac": true, "portMappings": true, "bandwidth": true, "dns": true}
	for _, c := range chain {
		for _, name := range []string{"portMappings", "bandwidth"} {
			if c.Capabilities[name] {
				delete(ours, name)
			}
		}
	}
	return ours
}

// present is nil if the binaries of the chain are in a folder.
func present(chain []Chained, dir string) error {
	for _, c := range chain {
		if _, err := os.Stat(filepath.Join(dir, c.Type)); err != nil {
			return fmt.Errorf("find the plugin %s of cni-chain: %w (Weft does not bring it)", c.Type, err)
		}
	}
	return nil
}
