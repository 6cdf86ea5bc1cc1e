// Command mkmanifest writes deploy/weft.yaml and the schema of the chart's values from
// the chart; `make manifest` calls it, at the root of the repository.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/weftnet/weft/deploy"
)

func main() {
	files, err := deploy.Generated()
	for path, content := range files {
		if err == nil {
			err = os.WriteFile(filepath.Join("deploy", path), content, 0o644)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mkmanifest:", err)
		os.Exit(1)
	}
}
