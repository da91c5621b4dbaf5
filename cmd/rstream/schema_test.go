//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// schemaFile describes config files to editors.
const schemaFile = "../../packaging/config.schema.json"

// choices are the settings that have a few values only.
var choices = map[string][]string{
	"durable":    {"always", "interval"},
	"color":      {string(colourAuto), string(colourAlways), string(colourNever)},
	"log-format": {"text", "json"},
	"log-level":  {"debug", "info", "warn", "error"},
	"output":     {string(formText), string(formJSON)},
}

// serverSettings are the members of a named server.
var serverSettings = map[string]string{
	"name": "its name, for --server", "url": "its URL; a list if several servers have one log",
	"token-file": "a file with the token", "token-command": "a program that prints the token",
	"header": "a header to send with each request, or @FILE with headers; a list for several",
	"ca":     "a PEM file of the authorities that may have signed its certificate", "client-cert": "a PEM file of the certificate to show it", "client-key": "a PEM file of the key of client-cert",
}

// sourceSettings are the members of a named source besides its mapping and credentials.
var sourceSettings = map[string]string{"name": "its name, for --server", "url": "the URL of the stream"}

type schemaNode map[string]any

// settingSchema returns the schema of a flag's value.
func settingSchema(f *pflag.Flag) schemaNode {
	_, usage := pflag.UnquoteUsage(f)
	node := schemaNode{"description": usage}
	if enum := choices[f.Name]; enum != nil {
		node["enum"] = enum
		return node
	}
	kind := any([]string{"string", "number"})
	switch f.Value.Type() {
	case "bool":
		kind = "boolean"
	case "int", "number":
		kind = "integer"
	}
	node["type"] = kind
	if _, list := f.Value.(pflag.SliceValue); list {
		delete(node, "type")
		one := schemaNode{"type": kind}
		node["anyOf"] = []schemaNode{one, {"type": "array", "items": one}}
	}
	return node
}

// configSchema returns the schema of a config file, from the flags of all commands.
func configSchema(root *cobra.Command) []byte {
	settings := schemaNode{}
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		for _, flags := range []*pflag.FlagSet{cmd.PersistentFlags(), cmd.Flags()} {
			flags.VisitAll(func(f *pflag.Flag) {
				if settings[f.Name] == nil && !isOwnFlag(f) && f.Name != "help" {
					settings[f.Name] = settingSchema(f)
				}
			})
		}
		for _, c := range cmd.Commands() {
			visit(c)
		}
	}
	visit(root)
	server := schemaNode{}
	for name, text := range serverSettings {
		server[name] = schemaNode{"description": text, "type": "string"}
	}
	text := schemaNode{"type": "string"}
	for _, list := range []string{"url", "header"} {
		server[list] = schemaNode{"description": serverSettings[list], "anyOf": []schemaNode{text, {"type": "array", "items": text}}}
	}
	settings["servers"] = schemaNode{"description": "servers with names, for --server", "type": "array", "items": schemaNode{
		"type": "object", "properties": server, "additionalProperties": false, "required": []string{"name", "url"},
	}}
	source := schemaNode{}
	for name, text := range serverSettings {
		if strings.Contains(name, "-") || name == "ca" {
			source[name] = schemaNode{"description": text, "type": "string"}
		}
	}
	for name, text := range sourceSettings {
		source[name] = schemaNode{"description": text, "type": "string"}
	}
	add, _, err := root.Find([]string{"source", "add"})
	if err != nil {
		panic(err)
	}
	names, _ := new(sourceFlags).settings()
	for _, name := range names {
		_, usage := pflag.UnquoteUsage(add.Flags().Lookup(name))
		source[name] = schemaNode{"description": usage, "type": "string"}
	}
	settings["sources"] = schemaNode{"description": "event streams of other servers with names, for --server", "type": "array", "items": schemaNode{
		"type": "object", "properties": source, "additionalProperties": false, "required": []string{"name", "url"},
	}}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	_ = enc.Encode(schemaNode{
		"$schema": "http://json-schema.org/draft-07/schema#", "title": "Settings of rstream", "type": "object",
		"properties": settings, "additionalProperties": false,
	})
	return b.Bytes()
}

// TestConfigSchema: the schema has every setting, and only values that the commands accept.
func TestConfigSchema(t *testing.T) {
	alone(t)
	a := testApp(t)
	root := newRootCommand(a)
	got := configSchema(root)
	if *update {
		if err := os.WriteFile(schemaFile, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(schemaFile)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is not up to date (%v); run the test with -update", schemaFile, err)
	}
	var schema struct{ Properties map[string]json.RawMessage }
	if err := json.Unmarshal(got, &schema); err != nil {
		t.Fatal(err)
	}
	known := flagNames(root)
	for name := range schema.Properties {
		if name != "servers" && name != "sources" && !slices.Contains(known, name) {
			t.Errorf("the schema has %s, which is no setting", name)
		}
	}
	for _, name := range known {
		if schema.Properties[name] == nil {
			t.Errorf("the schema lacks %s", name)
		}
	}
	check := func(text string) error {
		path := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return a.runConfigCheck(root, []string{path})
	}
	for name, values := range choices {
		for _, value := range values {
			if err := check(name + ": " + value); err != nil {
				t.Errorf("%s: %s: %v", name, value, err)
			}
		}
	}
	// One of the ways to give a token at a time.
	for _, token := range []string{"token-file", "token-command"} {
		text := "servers:\n  - url: https://a.example\n    " + token + ": x\n"
		for _, name := range slices.Sorted(maps.Keys(serverSettings)) {
			if !strings.HasPrefix(name, "token") && name != "url" {
				text += "    " + name + ": " + map[bool]string{true: "'X-Name: x'", false: "x"}[name == "header"] + "\n"
			}
		}
		if err := check(text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestPackagedConfig: the settings of the packages are valid, and so are those in its comments.
func TestPackagedConfig(t *testing.T) {
	alone(t)
	const packaged = "../../packaging/config.yaml"
	b, err := os.ReadFile(packaged)
	if err != nil {
		t.Fatal(err)
	}
	all := regexp.MustCompile(`(?m)^# ([a-z-]+: [^$])`).ReplaceAll(b, []byte("$1"))
	if bytes.Count(all, []byte("\n# ")) >= bytes.Count(b, []byte("\n# "))-10 {
		t.Fatal("there are no settings in the comments")
	}
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, all, 0o600); err != nil {
		t.Fatal(err)
	}
	a := testApp(t)
	root := newRootCommand(a)
	if err := a.runConfigCheck(root, []string{path}); err != nil {
		t.Error(err)
	}
	// Each is a setting of serve, and not a mistake for another command's.
	serve, _, err := root.Find([]string{"serve"})
	if err != nil {
		t.Fatal(err)
	}
	file, err := readConfigFile(path, flagNames(root))
	if err != nil {
		t.Fatal(err)
	}
	for name := range file.values {
		if serve.Flags().Lookup(name) == nil {
			t.Errorf("%s is not a flag of serve", name)
		}
	}
}
