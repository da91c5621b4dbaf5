package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// release is set by the linker in release builds.
var release = ""

// programVersion returns the release, or the version of the module that was built.
func programVersion() string {
	if release != "" {
		return release
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}

func newVersionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		GroupID: groupTools,
		Short:   "Print the version",
		Example: `  rstream version`,
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			if a.out.isForPerson() {
				return a.out.printf("rstream %s %s %s/%s\n", programVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			}
			return a.out.writeJSON(versionLine{"version", programVersion(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH})
		},
	}
}

type versionLine struct {
	Type     string `json:"type"`
	Version  string `json:"version"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}
