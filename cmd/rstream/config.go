package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

const defaultServer = "http://127.0.0.1:8420"

// settings is what the environment and the config file say.
type settings struct {
	Servers []namedServer // by name, for --server
}

// A namedServer gives the servers of one log a name. Names are list items: as keys
// viper would fold their case and split them at dots.
type namedServer struct {
	Name string
	URL  []string
}

// configure gives every flag that was not set its value from RSTREAM_NAME or from
// the config file, in this order, as if it stood on the command line.
func (a *app) configure(cmd *cobra.Command) error {
	a.named = cmd.Flags().Changed("server")
	v := viper.New()
	v.SetEnvPrefix("RSTREAM")
	v.SetEnvKeyReplacer(strings.NewReplacer("-", "_"))
	v.AutomaticEnv()
	file, err := a.readConfig(v, cmd.Root())
	if err != nil {
		return err
	}
	var failed error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Changed || failed != nil || isOurs(f.Name) || !v.IsSet(f.Name) {
			return
		}
		if err := setFlag(cmd.Flags(), f, v); err != nil {
			failed = usagef("%s: %w", sourceOf(f.Name, file), flagError(err))
		}
	})
	if failed != nil {
		return failed
	}
	var s settings
	if err := v.UnmarshalKey("servers", &s.Servers); err != nil {
		return usagef("%s: servers: want a list of name and url", file)
	}
	a.settings = &s
	return a.nameServers()
}

// isOurs reports whether a flag is for the command line alone.
func isOurs(flag string) bool { return flag == "help" || flag == "version" || flag == "config" }

// sourceOf says where the value of a flag came from that was not on the command
// line.
func sourceOf(flag, file string) string {
	env := "RSTREAM_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
	if os.Getenv(env) != "" {
		return env
	}
	return file
}

// setFlag sets f from v. A list is several uses of the flag; in the environment it
// is separated by spaces.
func setFlag(flags *pflag.FlagSet, f *pflag.Flag, v *viper.Viper) error {
	values := []string{v.GetString(f.Name)}
	if _, list := f.Value.(pflag.SliceValue); list {
		if _, wrong := v.Get(f.Name).(map[string]any); wrong {
			return fmt.Errorf("%s: want a list", f.Name)
		}
		values = v.GetStringSlice(f.Name)
	}
	for _, s := range values {
		if err := flags.Set(f.Name, s); err != nil {
			return err
		}
	}
	return nil
}

// readConfig reads the config file and returns its path: the one that was named
// must be there, the usual one need not.
func (a *app) readConfig(v *viper.Viper, root *cobra.Command) (path string, err error) {
	if path = a.config; path == "" {
		path = v.GetString("config")
	}
	named := path != ""
	if !named {
		path = filepath.Join(configDir(), "rstream", "config.yaml")
	}
	if _, err := os.Stat(path); err != nil {
		if !named && errors.Is(err, fs.ErrNotExist) {
			return "", nil
		}
		return "", usagef("read config: %w", err)
	}
	v.SetConfigFile(path)
	if err := v.ReadInConfig(); err != nil {
		return "", usagef("read config %s: %w", path, err)
	}
	known := flagNames(root)
	for _, key := range v.AllKeys() {
		if name, _, _ := strings.Cut(key, "."); name != "servers" && !slices.Contains(known, name) {
			return "", usagef("read config %s: unknown setting %q", path, name)
		}
	}
	return path, nil
}

// flagNames returns the names that a config file may set.
func flagNames(cmd *cobra.Command) (names []string) {
	for _, flags := range []*pflag.FlagSet{cmd.Flags(), cmd.PersistentFlags()} {
		flags.VisitAll(func(f *pflag.Flag) {
			if !isOurs(f.Name) {
				names = append(names, f.Name)
			}
		})
	}
	for _, c := range cmd.Commands() {
		names = append(names, flagNames(c)...)
	}
	return names
}

// nameServers turns names of servers into their URLs.
func (a *app) nameServers() error {
	var urls []string
	for _, s := range a.servers {
		if strings.Contains(s, "://") {
			urls = append(urls, s)
			continue
		}
		i := slices.IndexFunc(a.settings.Servers, func(n namedServer) bool { return n.Name == s })
		if i < 0 {
			return usagef("server %q: is neither a URL such as %s nor a name in the config file", s, defaultServer)
		}
		if len(a.settings.Servers[i].URL) == 0 {
			return usagef("server %q: has no url in the config file", s)
		}
		urls = append(urls, a.settings.Servers[i].URL...)
	}
	for i, s := range urls {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
			return usagef("server %q: want a URL such as %s", s, defaultServer)
		}
		urls[i] = strings.TrimRight(s, "/")
	}
	a.servers = urls
	return nil
}

// configDir and dataDir are the directories of the XDG base directory
// specification, or what the system has for them.
func configDir() string {
	if dir := os.Getenv("XDG_CONFIG_HOME"); filepath.IsAbs(dir) {
		return dir
	}
	if dir, err := os.UserConfigDir(); err == nil {
		return dir
	}
	return "."
}

func dataDir() (string, error) {
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "rstream"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the data directory: %w; name a file with --cache FILE", err)
	}
	return filepath.Join(home, ".local", "share", "rstream"), nil
}
