// Package jq compiles expressions of jq that see one event and nothing else: no clock, no
// environment and no further input, so that the same event always has the same result.
package jq

import (
	"fmt"
	"reflect"
	"slices"

	"github.com/itchyny/gojq"
)

// impure are the functions of jq that see something besides the event.
var impure = []string{"now", "localtime", "strflocaltime", "env", "$ENV", "input", "inputs", "debug", "stderr",
	"input_filename", "input_line_number", "halt", "halt_error", "get_search_list", "modulemeta"}

// Compile compiles an expression in which the named variables may occur. It returns an error
// if the expression uses a function that sees more than its input.
func Compile(text string, variables ...string) (*gojq.Code, error) {
	query, err := gojq.Parse(text)
	if err != nil {
		return nil, err
	}
	if name := impureIn(reflect.ValueOf(query)); name != "" {
		return nil, fmt.Errorf("%s is not allowed: an expression sees only the event", name)
	}
	return gojq.Compile(query, gojq.WithVariables(variables))
}

// impureIn returns the name of an impure function in a part of a query, "" if there is none.
func impureIn(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return ""
		}
		if f, ok := v.Interface().(*gojq.Func); ok && slices.Contains(impure, f.Name) {
			return f.Name
		}
		return impureIn(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if name := impureIn(v.Field(i)); name != "" {
				return name
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			if name := impureIn(v.Index(i)); name != "" {
				return name
			}
		}
	}
	return ""
}
