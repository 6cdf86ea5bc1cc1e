// Command installer installs the plugin, for the test that kills it.
package main

import (
	"log"
	"os"

	"github.com/weftnet/weft/plugin"
)

func main() {
	o := plugin.InstallOptions{Binary: os.Args[1], BinDir: os.Args[2], ConfDir: os.Args[3], StateDir: os.Args[4]}
	if err := plugin.Install(o); err != nil {
		log.Fatal(err)
	}
}
