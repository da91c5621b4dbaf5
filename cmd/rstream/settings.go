package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

// An origin is where the value of a flag comes from. Lower values take precedence.
type origin int

const (
	onCommandLine origin = iota
	inEnvironment
	inConfig
	inServers // among the servers of the config file
	unset
)

// settings are the settings from the environment and the config file.
type settings struct {
	names   []string    // of all that can be set
	file    *configFile // nil if there is none
	origins map[string]origin
}

// configure sets every flag that is not on the command line from RSTREAM_NAME or else
// from the config file. A setting is ignored if it cannot be combined with one that
// takes precedence.
func (a *app) configure(cmd *cobra.Command, args []string) (err error) {
	s := &settings{origins: map[string]origin{}}
	a.settings = s
	flags := cmd.Flags()
	a.named = flags.Changed("server")
	if err := checkEmpty(flags); err != nil {
		return err
	}
	v := viper.New()
	v.SetEnvPrefix("RSTREAM")
	v.SetEnvKeyReplacer(strings.NewReplacer("-", "_"))
	v.AutomaticEnv() // an empty variable counts as not set
	if err := s.readConfig(a.config, v, cmd.Root()); err != nil {
		return err
	}
	for _, from := range []origin{inEnvironment, inConfig} {
		if err := s.setFlags(cmd, args, v, from); err != nil {
			return err
		}
	}
	if err := s.checkCombined(cmd, args); err != nil {
		return err
	}
	s.annotate(cmd)
	if s.file != nil {
		for _, path := range s.file.secrets {
			a.warnIfExposed(path)
		}
	}
	a.noteForeignTopics(cmd, args)
	a.noteZone()
	if err := a.nameServersOrSource(cmd); err != nil {
		if from := s.sourceOf("server"); from != "" {
			err = usagef("%s: %w", from, err)
		}
		return err
	}
	if err := a.readHeaders(cmd); err != nil {
		return err
	}
	if a.source == nil { // else they were read when it was chosen
		a.tls, err = a.tlsConfig()
	}
	return err
}

// checkUnconfigured replaces configure for commands that read neither environment nor file.
func checkUnconfigured(cmd *cobra.Command, _ []string) error { return checkEmpty(cmd.Flags()) }

// checkEmpty rejects empty flag values on the command line: most come from an unset
// shell variable.
func checkEmpty(flags *pflag.FlagSet) (err error) {
	flags.Visit(func(f *pflag.Flag) {
		if err == nil && f.Name != "text" && isEmptyFlag(f) {
			err = usagef("--%s: must not be empty", f.Name)
		}
	})
	return err
}

func isEmptyFlag(f *pflag.Flag) bool {
	if list, ok := f.Value.(pflag.SliceValue); ok {
		values := list.GetSlice()
		return len(values) == 0 || slices.Contains(values, "")
	}
	return f.Value.String() == ""
}

// setFlags sets flags from one origin.
func (s *settings) setFlags(cmd *cobra.Command, args []string, v *viper.Viper, from origin) (err error) {
	nearer := givenFlags(cmd.Flags())
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if err == nil && from == inEnvironment && f.Annotations[lineOnly] != nil && fromEnvironment(f.Name) && !slices.Contains(s.names, f.Name) {
			err = usagef("%s: --%s can only be set on the command line", envName(f.Name), f.Name)
		}
		if err != nil || f.Changed || isOwnFlag(f) || !v.IsSet(f.Name) || fromEnvironment(f.Name) != (from == inEnvironment) {
			return
		}
		if isExcluded(cmd, f.Name, nearer, args) && !isOff(f, v.GetString(f.Name)) {
			return
		}
		s.origins[f.Name] = from
		if err = setFlag(cmd.Flags(), f, v); err != nil {
			err = usagef("%s: %w", s.sourceOf(f.Name), flagError(cmd, err))
		}
	})
	return err
}

// givenFlags returns the flags that are set, except switches that are off.
func givenFlags(flags *pflag.FlagSet) (names []string) {
	flags.Visit(func(f *pflag.Flag) {
		if !isOff(f, f.Value.String()) {
			names = append(names, f.Name)
		}
	})
	return names
}

func isOff(f *pflag.Flag, value string) bool { return f.Value.Type() == "bool" && value == "false" }

// setFlag sets f from v. For a list, it sets the flag repeatedly; in the environment,
// spaces separate the values, and lines those of --header.
func setFlag(flags *pflag.FlagSet, f *pflag.Flag, v *viper.Viper) error {
	values, _ := v.Get(f.Name).([]string) // from the config file
	_, list := f.Value.(pflag.SliceValue)
	switch {
	case values == nil && list && f.Name == "header": // it contains spaces
		values = strings.Split(strings.TrimSpace(v.GetString(f.Name)), "\n")
	case values == nil && list:
		values = strings.Fields(v.GetString(f.Name))
	case values == nil:
		values = []string{v.GetString(f.Name)}
	case len(values) != 1 && !list:
		return fmt.Errorf("--%s: want one value, not a list of %d", f.Name, len(values))
	}
	for _, s := range values {
		if err := flags.Set(f.Name, s); err != nil {
			return err
		}
	}
	return nil
}

// isOwnFlag reports whether a flag can only be set on the command line.
func isOwnFlag(f *pflag.Flag) bool {
	return f.Name == "help" || f.Name == "version" || f.Name == "config" || f.Annotations[lineOnly] != nil
}

// lineOnly annotates flags that say what one call is to do, and those that share their name with
// another command's flag but mean something else: one setting cannot be both.
const lineOnly = "command line only"

// forLineOnly marks a flag that only the command line sets.
func forLineOnly(flags *pflag.FlagSet, name string) {
	_ = flags.SetAnnotation(name, lineOnly, []string{""}) // fails only for an unknown flag
}

func envName(flag string) string {
	return "RSTREAM_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

func fromEnvironment(flag string) bool { return os.Getenv(envName(flag)) != "" }

// sourceOf returns where the value of a flag comes from, "" for the command line.
func (s *settings) sourceOf(flag string) string {
	switch s.origins[flag] {
	case inEnvironment:
		return envName(flag)
	case inConfig:
		return s.file.placeOf(flag)
	}
	return ""
}

// sourcesAnnotation annotates a command with flags that were not set on the command
// line and their sources, for hints.
const sourcesAnnotation = "sources"

// serverAnnotation is the same for --server, for hints about connections.
const serverAnnotation = "server"

func (s *settings) annotate(cmd *cobra.Command) {
	var text []string
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if from := s.sourceOf(f.Name); from != "" && f.Name != "server" {
			text = append(text, "--"+f.Name+" comes from "+from)
		}
	})
	if cmd.Annotations == nil {
		cmd.Annotations = map[string]string{}
	}
	cmd.Annotations[sourcesAnnotation] = strings.Join(text, ", ")
	if from := s.sourceOf("server"); from != "" {
		cmd.Annotations[serverAnnotation] = "--server comes from " + from
	}
}

// noteZone notes that TZ names an unknown time zone: Go would use UTC silently.
func (a *app) noteZone() {
	name := strings.TrimPrefix(os.Getenv("TZ"), ":")
	if name == "" {
		return
	}
	_, err := time.LoadLocation(name)
	if strings.HasPrefix(name, "/") { // a file
		_, err = os.Stat(name)
	}
	if err != nil {
		a.note("the time zone %q in TZ is unknown; using UTC", name)
	}
}
