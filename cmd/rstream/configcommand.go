package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"

	"github.com/rstream-dev/rstream/internal/natslog"
	"github.com/rstream-dev/rstream/internal/wire"
)

func newConfigCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "config [COMMAND]",
		GroupID: groupTools,
		Short:   "Show and check the settings",
		Long: `Show the settings that the environment and the config files make, and where each
comes from. The user's file overrides the system's, /etc/rstream/config.yaml; with
--config, only the file that it names is read.`,
		Example: `  rstream config
  rstream config check
  $EDITOR "$(rstream config path)"`,
		Args:                  knownCommand,
		DisableFlagsInUseLine: true,
		RunE:                  func(*cobra.Command, []string) error { return a.runConfigShow() },
	}
	cmd.AddCommand(newConfigShowCommand(a), newConfigCheckCommand(a), newConfigPathCommand(a))
	return cmd
}

func newConfigShowCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "show",
		Short:   "Show the settings and where they come from",
		Example: `  rstream config show -o json | jq .name`,
		Args:    noArgs,
		RunE:    func(*cobra.Command, []string) error { return a.runConfigShow() },
	}
}

// A settingLine is a setting as JSON.
type settingLine struct {
	Type   string   `json:"type"`
	Name   string   `json:"name"`
	Values []string `json:"values"`
	Source string   `json:"source"` // a variable, or a file and a line
}

func (a *app) runConfigShow() error {
	lines := a.settings.lines()
	if len(lines) == 0 && a.out.isForPerson() {
		return a.out.printf(nothingYet)
	}
	for _, line := range lines {
		err := a.out.printSetting(line)
		if err != nil {
			return err
		}
	}
	return nil
}

// printSetting prints a setting, without the secrets of a URL.
func (o *output) printSetting(line settingLine) error {
	for i := range line.Values {
		switch value := &line.Values[i]; line.Name {
		case "nats", "nats-system":
			*value = natslog.ShownAddresses(*value)
		case "header":
			*value = maskHeader(wire.Redact(*value))
		default:
			*value = wire.Redact(*value)
		}
	}
	if !o.isForPerson() {
		return o.writeJSON(line)
	}
	return o.printf("%-14s  %-24s  %s\n", line.Name, visible(strings.Join(line.Values, " ")), visible(line.Source))
}

// lines returns the settings of the environment and the config files, by name.
func (s *settings) lines() (lines []settingLine) {
	for _, name := range s.names {
		line := settingLine{Type: "setting", Name: name}
		switch {
		case fromEnvironment(name):
			line.Values, line.Source = []string{os.Getenv(envName(name))}, envName(name)
			if name == "header" {
				line.Values = strings.Split(strings.TrimSpace(line.Values[0]), "\n")
			}
		case s.file != nil && s.file.values[name] != nil:
			line.Values, line.Source = slices.Clone(s.file.values[name]), s.file.placeOf(name)
		default:
			continue
		}
		lines = append(lines, line)
	}
	return lines
}

func newConfigCheckCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check config files",
		Long: `Check the config files, or a FILE before it becomes one: each setting must exist,
and its value must be one that every command with that flag accepts. The first
mistake is reported with its line, and the status is 2.`,
		Example:           `  rstream config check new.yaml`,
		Args:              argCount(0, 1, "at most one FILE"),
		PersistentPreRunE: checkUnconfigured, // or the files would be read before
		RunE: func(cmd *cobra.Command, args []string) error {
			paths := configPaths(a.config)
			if len(args) > 0 {
				paths = args
			}
			return a.runConfigCheck(cmd.Root(), paths)
		},
	}
}

func (a *app) runConfigCheck(root *cobra.Command, paths []string) error {
	checked := 0
	for i, path := range paths {
		file, err := readConfigFile(path, flagNames(root))
		switch {
		case i > 0 && errors.Is(err, fs.ErrPermission), file == nil && err == nil && len(paths) > 1:
			continue
		case file == nil && err == nil:
			err = noConfigError(path)
		case err == nil:
			err = a.checkConfig(file)
		}
		if err != nil {
			return err
		}
		checked++
		if err := a.printCheckedConfig(file); err != nil {
			return err
		}
	}
	if checked == 0 && a.out.isForPerson() {
		return a.out.printf(nothingYet)
	}
	return nil
}

func (a *app) printCheckedConfig(file *configFile) error {
	path := file.paths[0]
	if !a.out.isForPerson() {
		return a.out.writeJSON(struct {
			Type     string `json:"type"`
			File     string `json:"file"`
			Settings int    `json:"settings"`
			Servers  int    `json:"servers"`
		}{"config", path, len(file.values), len(file.servers)})
	}
	return a.out.printf("%s: %s, %s: no mistake\n", visible(path), count(len(file.values), "setting"), count(len(file.servers), "server"))
}

// checkConfig sets every flag of every command to the value that a file has for it. It uses
// commands of its own, which are never run.
func (a *app) checkConfig(file *configFile) error {
	out := *a.out
	b := &app{out: &out, settings: &settings{file: file}}
	root := newRootCommand(b)
	v := viper.New()
	values := map[string]any{}
	for name, list := range file.values {
		values[name] = list
	}
	if err := v.MergeConfigMap(values); err != nil {
		return err
	}
	if err := checkFlags(root, file, v); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(valueChecks)) {
		if values := file.values[name]; len(values) > 0 {
			if err := valueChecks[name](values); err != nil {
				return usagef("%s: %w", file.placeOf(name), err)
			}
		}
	}
	for i := range file.servers {
		b.servers = []string{file.servers[i].name}
		if err := b.nameServers(); err != nil {
			return err
		}
	}
	if b.servers = file.values["server"]; len(b.servers) > 0 {
		if err := b.nameServers(); err != nil {
			return usagef("%s: %w", file.placeOf("server"), err)
		}
	}
	return nil
}

// checkFlags sets the flags of cmd and its commands.
func checkFlags(cmd *cobra.Command, file *configFile, v *viper.Viper) (err error) {
	for _, flags := range []*pflag.FlagSet{cmd.Flags(), cmd.PersistentFlags()} {
		flags.VisitAll(func(f *pflag.Flag) {
			if err != nil || isOwnFlag(f) || file.values[f.Name] == nil {
				return
			}
			if err = setFlag(flags, f, v); err != nil {
				err = usagef("%s: %w", file.placeOf(f.Name), flagError(cmd, err))
			}
		})
	}
	for _, c := range cmd.Commands() {
		if err == nil {
			err = checkFlags(c, file, v)
		}
	}
	return err
}

func newConfigPathCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "path",
		Short: "Print the path of the user's config file",
		Long: `Print the path of the user's config file and nothing else, whether or not it
exists.`,
		Example:           `  cat "$(rstream config path)"`,
		Args:              noArgs,
		PersistentPreRunE: checkUnconfigured, // a broken file has a path, too
		RunE: func(*cobra.Command, []string) error {
			path := configPaths(a.config)[0]
			if a.out.form == formJSON {
				_, err := os.Stat(path)
				return a.out.writeJSON(struct {
					Type   string `json:"type"`
					File   string `json:"file"`
					Exists bool   `json:"exists"`
				}{"config", path, err == nil})
			}
			return a.out.writeLine(fmt.Append(nil, path))
		},
	}
}
