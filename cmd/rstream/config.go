package main

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/internal/wire"
)

const defaultServer = "http://127.0.0.1:8420"

// nameServers resolves the names of servers to URLs.
func (a *app) nameServers() error {
	var urls []string
	for _, s := range a.servers {
		if strings.Contains(s, "://") {
			urls = append(urls, s)
			continue
		}
		named, err := a.settings.urlsOf(s)
		if err != nil && isHostPort(s) {
			named, err = []string{"http://" + s}, nil // as curl takes it
		}
		if err != nil {
			return err
		}
		urls = append(urls, named...)
	}
	for i, s := range urls {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || strings.Contains(u.Path, "@") {
			if !strings.Contains(s, "@") {
				return usagef("server %q: want a URL such as %s, without parameters", wire.RedactURL(s), defaultServer)
			}
			return usagef("server %q: want a URL such as %s; in a password, write / as %%2F and @ as %%40", wire.RedactURL(s), defaultServer)
		}
		urls[i] = strings.TrimRight(s, "/")
	}
	a.servers = urls
	return nil
}

// nameServersOrSource is nameServers, but the name may also be that of a source, if it is
// none of a server.
func (a *app) nameServersOrSource(cmd *cobra.Command) error {
	if len(a.servers) == 1 && !strings.Contains(a.servers[0], "://") && a.settings.file != nil {
		name := a.servers[0]
		isServer := slices.ContainsFunc(a.settings.file.servers, func(s namedServer) bool { return s.name == name })
		i := slices.IndexFunc(a.settings.file.sources, func(s namedSource) bool { return s.name == name })
		if !isServer && i >= 0 {
			return a.chooseSource(cmd, "", &a.settings.file.sources[i])
		}
	}
	return a.nameServers()
}

// isHostPort reports whether s is an address such as 127.0.0.1:8420, which a path may follow.
func isHostPort(s string) bool {
	address, _, _ := strings.Cut(s, "/")
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

// urlsOf returns the URLs of a server that has a name in the config file.
func (s *settings) urlsOf(name string) ([]string, error) {
	var servers []namedServer
	if s.file != nil {
		servers = s.file.servers
	}
	i := slices.IndexFunc(servers, func(n namedServer) bool { return n.name == name })
	if i < 0 {
		return nil, usagef("server %q: is neither a URL such as %s nor a name in the config file", wire.RedactURL(name), defaultServer)
	}
	if len(servers[i].urls) == 0 {
		return nil, usagef("server %q: has no url in the config file", name)
	}
	return servers[i].urls, nil
}

// configDir and dataDir are the directories of the XDG base directory specification, or
// the system's equivalents.
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
