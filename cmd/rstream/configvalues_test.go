package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// config check refuses each value that the command with the flag refuses, and no other.
func TestConfigValues(t *testing.T) {
	names := flagNames(newRootCommand(&app{out: &output{}, settings: &settings{}}))
	values := map[string]struct{ good, bad []string }{
		"log-level":      {[]string{"debug", "error"}, []string{"foo", "DEBUG"}},
		"log-format":     {[]string{"text", "json"}, []string{"foo"}},
		"max-stream-age": {[]string{"0", "1s", "1h"}, []string{"1ns", "-1s"}},
		"heartbeat":      {[]string{"10ms", "15s"}, []string{"0", "1ms"}},
		"listen":         {[]string{"127.0.0.1:0", "0.0.0.0:8420", ":8420", "localhost:http"}, []string{"127.0.0.1:99999", "foo", "a@b:1"}},
		"admin":          {[]string{"127.0.0.1:0"}, []string{"foo", "127.0.0.1:nope"}},
		"acme":           {[]string{"log.example.com"}, []string{"foo_bar"}},
		"node":           {[]string{"a"}, []string{`"a\u0007b"`}},
		"limit":          {[]string{"requests=100", "bytes=10MB"}, []string{"requests=abc", "foo=1"}},
		"behind":         {[]string{"127.0.0.1", "10.0.0.0/8"}, []string{"foo", "0.0.0.0/0"}},
		"allow-origin":   {[]string{"'*'", "https://a.example"}, []string{"foo"}},
		"header":         {[]string{"'X-Team: red'"}, []string{"nonsense", "'Host: x'"}},
		"strategy":       {[]string{"auto", "iblt"}, []string{"foo"}},
		"log":            {[]string{"5ZC8Y0M7Q2KJ4T1R"}, []string{"foo"}},
		"alg":            {[]string{"HS256"}, []string{"foo"}},
	}
	for name := range valueChecks {
		v, ok := values[name]
		if !ok || !slices.Contains(names, name) {
			t.Errorf("%s is no flag, or has no values here", name)
		}
		for i, value := range append(v.good, v.bad...) {
			path := filepath.Join(t.TempDir(), "c.yaml")
			if err := os.WriteFile(path, []byte(name+": "+value+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			a := &app{out: &output{}, settings: &settings{}}
			file, err := readConfigFile(path, names)
			if err == nil {
				err = a.checkConfig(file)
			}
			if good := i < len(v.good); (err == nil) != good {
				t.Errorf("%s: %s: %v", name, value, err)
			}
		}
	}
}
