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

// An origin is where the value of a flag comes from. A lower one wins.
type origin int

const (
	onCommandLine origin = iota
	inEnvironment
	inConfig
)

// settings is what the environment and the config file say.
type settings struct {
	file    *configFile // nil if there is none
	origins map[string]origin
}

// configure gives every flag that is not on the command line its value from
// RSTREAM_NAME or from the config file, in this order. What is set further away and
// cannot be combined with what is set nearer is left out.
func (a *app) configure(cmd *cobra.Command, args []string) error {
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
	v.AutomaticEnv() // a variable that is empty is not set
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
	a.noteForeignTopics(cmd, args)
	a.noteZone()
	if err := a.nameServers(); err != nil {
		if from := s.sourceOf("server"); from != "" {
			err = usagef("%s: %w", from, err)
		}
		return err
	}
	return nil
}

// unconfigured stands for configure where neither environment nor file is read.
func unconfigured(cmd *cobra.Command, _ []string) error { return checkEmpty(cmd.Flags()) }

// checkEmpty refuses empty values of flags on the command line: most come from a
// variable of a shell that is not set.
func checkEmpty(flags *pflag.FlagSet) (err error) {
	flags.Visit(func(f *pflag.Flag) {
		if err == nil && f.Name != "text" && isEmpty(f) {
			err = usagef("--%s: must not be empty", f.Name)
		}
	})
	return err
}

func isEmpty(f *pflag.Flag) bool {
	if list, ok := f.Value.(pflag.SliceValue); ok {
		return slices.Contains(list.GetSlice(), "")
	}
	return f.Value.String() == ""
}

// setFlags gives the flags their values from one place.
func (s *settings) setFlags(cmd *cobra.Command, args []string, v *viper.Viper, from origin) (err error) {
	nearer := given(cmd.Flags())
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if err != nil || f.Changed || isOurs(f) || !v.IsSet(f.Name) || fromEnvironment(f.Name) != (from == inEnvironment) {
			return
		}
		if excluded(cmd, f.Name, nearer, args) && !isOff(f, v.GetString(f.Name)) {
			return
		}
		s.origins[f.Name] = from
		if err = setFlag(cmd.Flags(), f, v); err != nil {
			err = usagef("%s: %w", s.sourceOf(f.Name), flagError(cmd, err))
		}
	})
	return err
}

// given returns the flags that are set, without switches that are off.
func given(flags *pflag.FlagSet) (names []string) {
	flags.Visit(func(f *pflag.Flag) {
		if !isOff(f, f.Value.String()) {
			names = append(names, f.Name)
		}
	})
	return names
}

func isOff(f *pflag.Flag, value string) bool { return f.Value.Type() == "bool" && value == "false" }

// setFlag sets f from v. A list is several uses of the flag; in the environment it
// is separated by spaces.
func setFlag(flags *pflag.FlagSet, f *pflag.Flag, v *viper.Viper) error {
	values, _ := v.Get(f.Name).([]string) // of the file
	_, list := f.Value.(pflag.SliceValue)
	switch {
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

// isOurs reports whether a flag is for the command line alone.
func isOurs(f *pflag.Flag) bool {
	return f.Name == "help" || f.Name == "version" || f.Name == "config" || f.Annotations[lineOnly] != nil
}

// lineOnly annotates flags that have the name of another command's flag and mean
// something else: one setting cannot be both.
const lineOnly = "command line only"

// forLineOnly marks a flag as one that only the command line sets.
func forLineOnly(flags *pflag.FlagSet, name string) {
	_ = flags.SetAnnotation(name, lineOnly, []string{""}) // fails only for an unknown flag
}

func envName(flag string) string {
	return "RSTREAM_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

func fromEnvironment(flag string) bool { return os.Getenv(envName(flag)) != "" }

// sourceOf says where the value of a flag comes from, "" for the command line.
func (s *settings) sourceOf(flag string) string {
	switch s.origins[flag] {
	case inEnvironment:
		return envName(flag)
	case inConfig:
		return s.file.placeOf(flag)
	}
	return ""
}

// sourcesAnnotation annotates a command with what sets its flags besides the command
// line, for the hint of an error.
const sourcesAnnotation = "sources"

// serverAnnotation says where --server comes from, for errors of the connection.
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

// noteZone says that TZ names no zone that Go knows: it would be UTC without a word.
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
