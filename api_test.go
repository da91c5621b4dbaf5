package rstream_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/importer"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// publicPackages are those that programs outside the module import.
var publicPackages = []string{"event", "window", "reconcile", "cache", "client", "rstreamtest"}

// Whatever a public package exports can be named by the programs that import it: no
// signature, field or embedded type is of an internal package or unexported.
func TestPublicAPI(t *testing.T) {
	imports, err := exportData(t)
	if err != nil {
		t.Fatal(err)
	}
	var packages []*types.Package
	for _, name := range publicPackages {
		pkg, err := imports.Import(module + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, pkg)
	}
	api := newAPI(packages)
	exported := 0
	for _, pkg := range packages {
		for _, name := range pkg.Scope().Names() {
			if obj := pkg.Scope().Lookup(name); obj.Exported() {
				exported++
				api.checkObject(obj)
			}
		}
	}
	for _, bad := range api.bad {
		t.Error(bad)
	}
	if exported < 100 {
		t.Errorf("only %d names are exported", exported)
	}
}

// exportData returns an importer of the public packages, compiled.
func exportData(t *testing.T) (types.Importer, error) {
	args := []string{"list", "-export", "-deps", "-json=ImportPath,Export"}
	for _, name := range publicPackages {
		args = append(args, "./"+name)
	}
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	files := map[string]string{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct{ ImportPath, Export string }
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		files[p.ImportPath] = p.Export
	}
	return importer.ForCompiler(token.NewFileSet(), "gc", func(path string) (io.ReadCloser, error) {
		return os.Open(files[path])
	}), nil
}

// An api checks what some packages export.
type api struct {
	named map[*types.TypeName]bool // types that have a public name: that of an alias
	bad   []string
}

func newAPI(packages []*types.Package) *api {
	a := &api{named: map[*types.TypeName]bool{}}
	for _, pkg := range packages {
		for _, name := range pkg.Scope().Names() {
			obj, ok := pkg.Scope().Lookup(name).(*types.TypeName)
			if !ok || !obj.Exported() || !obj.IsAlias() {
				continue
			}
			if t, ok := types.Unalias(obj.Type()).(*types.Named); ok {
				a.named[t.Obj()] = true
			}
		}
	}
	return a
}

func (a *api) checkObject(obj types.Object) {
	where := obj.Pkg().Name() + "." + obj.Name()
	name, ok := obj.(*types.TypeName)
	if !ok {
		a.checkType(where, obj.Type())
		return
	}
	t, ok := types.Unalias(name.Type()).(*types.Named)
	if !ok {
		a.checkType(where, name.Type())
		return
	}
	a.checkType(where, t.Underlying())
	for m := range t.Methods() {
		if m.Exported() {
			a.checkType(where+"."+m.Name(), m.Type())
		}
	}
}

// checkType looks at a type and those that it is made of, down to such as have a name.
func (a *api) checkType(where string, t types.Type) {
	switch t := t.(type) {
	case *types.Alias:
		a.checkArguments(where, t.TypeArgs())
		a.checkName(where, t.Obj())
	case *types.Named:
		a.checkArguments(where, t.TypeArgs())
		a.checkName(where, t.Obj())
	case *types.Struct:
		for f := range t.Fields() {
			if f.Exported() || f.Embedded() {
				a.checkType(where+"."+f.Name(), f.Type())
			}
		}
	case *types.Interface:
		for m := range t.ExplicitMethods() {
			a.checkType(where+"."+m.Name(), m.Type())
		}
		for e := range t.EmbeddedTypes() {
			a.checkType(where, e)
		}
	case *types.Signature:
		for v := range t.Params().Variables() {
			a.checkType(where, v.Type())
		}
		for v := range t.Results().Variables() {
			a.checkType(where, v.Type())
		}
	case *types.Map:
		a.checkType(where, t.Key())
		a.checkType(where, t.Elem())
	case interface{ Elem() types.Type }: // pointers, slices, arrays, channels
		a.checkType(where, t.Elem())
	}
}

func (a *api) checkArguments(where string, args *types.TypeList) {
	for t := range args.Types() {
		a.checkType(where, t)
	}
}

func (a *api) checkName(where string, name *types.TypeName) {
	if name.Pkg() == nil || a.named[name] {
		return // a predeclared type
	}
	path := name.Pkg().Path()
	inner, ours := strings.CutPrefix(path, module+"/")
	if !ours || slices.Contains(publicPackages, inner) && name.Exported() {
		return
	}
	a.bad = append(a.bad, fmt.Sprintf("%s names %s.%s", where, path, name.Name()))
}

// The law must be able to catch: each of these names something that it must not.
func TestPublicAPICatches(t *testing.T) {
	hidden := types.NewPackage(module+"/internal/hub", "hub")
	source := types.NewNamed(types.NewTypeName(token.NoPos, hidden, "Source", nil), types.NewInterfaceType(nil, nil), nil)
	pkg := types.NewPackage(module+"/client", "client")
	own := types.NewNamed(types.NewTypeName(token.NoPos, pkg, "store", nil), types.NewStruct(nil, nil), nil)
	param := func(t types.Type) *types.Tuple { return types.NewTuple(types.NewParam(token.NoPos, pkg, "x", t)) }
	for name, bad := range map[string]types.Type{
		"itself":      source,
		"unexported":  own,
		"embedded":    types.NewInterfaceType(nil, []types.Type{source}),
		"a parameter": types.NewSignatureType(nil, nil, nil, param(types.NewPointer(source)), nil, false),
		"a result":    types.NewSignatureType(nil, nil, nil, nil, param(types.NewSlice(source)), false),
		"a field":     types.NewStruct([]*types.Var{types.NewField(token.NoPos, pkg, "F", types.NewMap(types.Typ[types.String], source), false)}, nil),
		"a base":      types.NewStruct([]*types.Var{types.NewField(token.NoPos, pkg, "store", own, true)}, nil),
		"a channel":   types.NewChan(types.SendRecv, types.NewArray(source, 3)),
	} {
		a := newAPI(nil)
		if a.checkType(name, bad); len(a.bad) != 1 {
			t.Errorf("%s: %q", name, a.bad)
		}
	}
	a := newAPI(nil)
	a.named[source.Obj()] = true
	a.checkType("an alias", source)
	a.checkType("a hidden field", types.NewStruct([]*types.Var{types.NewField(token.NoPos, pkg, "f", source, false)}, nil))
	if len(a.bad) > 0 {
		t.Errorf("may not be named: %q", a.bad)
	}
}
