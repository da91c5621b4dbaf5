package rstream_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/go/packages"

	"github.com/rstream-dev/rstream/internal/longtest"
)

// The module is correct Go on other systems, too. It is only parsed and type-checked, and of other
// modules the declarations: to compile SQLite and NATS for each of them takes many times longer.
func TestOtherSystems(t *testing.T) {
	longtest.Require(t)
	for _, system := range []string{"darwin/arm64", "windows/amd64"} {
		t.Run(system, func(t *testing.T) {
			goos, goarch, _ := strings.Cut(system, "/")
			found, err := packages.Load(&packages.Config{
				Context:   t.Context(),
				Mode:      packages.NeedName | packages.NeedFiles | packages.NeedImports | packages.NeedDeps | packages.NeedTypes | packages.NeedSyntax | packages.NeedTypesInfo,
				Env:       append(os.Environ(), "CGO_ENABLED=0", "GOOS="+goos, "GOARCH="+goarch),
				ParseFile: parseOwnBodies,
			}, "./...")
			if err != nil {
				t.Fatal(err)
			}
			packages.Visit(found, nil, func(p *packages.Package) {
				if !strings.HasPrefix(p.PkgPath, module) {
					return // without bodies, it may import what it does not use
				}
				for _, err := range p.Errors {
					t.Error(err)
				}
			})
			if len(found) < 30 {
				t.Errorf("only %d packages were found", len(found))
			}
		})
	}
}

// parseOwnBodies parses a file of Go, without the bodies of functions that are not this module's.
func parseOwnBodies(fset *token.FileSet, name string, src []byte) (*ast.File, error) {
	f, err := parser.ParseFile(fset, name, src, parser.SkipObjectResolution)
	if dir, _ := os.Getwd(); f == nil || strings.HasPrefix(name, dir+string(filepath.Separator)) {
		return f, err
	}
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok {
			fn.Body = nil
		}
	}
	return f, err
}
