package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/rstream-dev/rstream/internal/wire"
)

// serversFile returns the path of a small file, next to the copies, that records which
// server serves which log, so that offline commands work.
func serversFile() (string, error) {
	dir, err := dataDir()
	return filepath.Join(dir, "servers.json"), err
}

func loadServers() (map[string]string, error) {
	path, err := serversFile()
	if err != nil {
		return nil, err
	}
	known := map[string]string{}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return known, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &known); err != nil {
		return nil, fmt.Errorf("read %s: %w (remove the file to start over)", path, err)
	}
	for url, log := range known { // earlier versions kept passwords
		if bare := wire.WithoutUser(url); bare != url {
			delete(known, url)
			known[bare] = log
		}
	}
	return known, nil
}

// changeServers changes the file.
func changeServers(change func(map[string]string)) error {
	path, err := serversFile()
	if err != nil {
		return err
	}
	return withLock(path, func() error {
		known, err := loadServers()
		if err != nil {
			return err
		}
		change(known)
		b, err := json.MarshalIndent(known, "", "  ")
		if err != nil {
			return err
		}
		return replaceFile(path, append(b, '\n'), 0o600)
	})
}

// learnServers records that servers serve a log, or, if that is "", that their log is not known.
func learnServers(log string, urls ...string) error {
	return changeServers(func(known map[string]string) { setLog(known, log, urls) })
}

func setLog(known map[string]string, log string, urls []string) {
	for _, url := range urls {
		if url = wire.WithoutUser(url); log == "" {
			delete(known, url)
		} else {
			known[url] = log
		}
	}
}
