package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// release is set by the linker for a release: -X main.release=v1.2.3.
var release string

type versionCmd struct{ output }

func (c *versionCmd) Run(p *program) error {
	if c.Output == "json" {
		return printJSON(p.stdout, map[string]string{"version": version(), "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH})
	}
	_, err := fmt.Fprintf(p.stdout, "helloapi %s (%s, %s/%s)\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

func version() string {
	if release != "" {
		return release
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
