package rstream_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// unwelcome matches words that no text for people has: each has a plainer one.
var unwelcome = regexp.MustCompile(`(?i)\b(whoever|whatever|anew|mend(s|ed)?|beside|by itself|by themselves|goes with it|go with it|is told|are told|may be had|` +
	`what (is|was|are|it|there) |failed to|unable to|somebody there|such (?:a|an|that|things)\b|unless it is said|stands \d+ times|please|oops|invalid argument)`)

// maxSentence is how many columns an error or a hint may take without the names in it: three
// lines of a terminal.
const maxSentence = 240

// TestWords reads the texts of the program: help, errors, hints and messages of the log.
func TestWords(t *testing.T) {
	read := 0
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == "testdata" || entry.Name() != "." && strings.HasPrefix(entry.Name(), ".")):
			return fs.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, s := range sentencesOf(file) {
			read++
			if word := unwelcome.FindString(s.text); word != "" {
				t.Errorf("%s: %q: say it without %q", files.Position(s.pos), s.text, word)
			}
			if n := utf8.RuneCountInString(s.text); s.isError && n > maxSentence {
				t.Errorf("%s: an error or hint of %d columns: %s", files.Position(s.pos), n, s.text)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if read < 1000 {
		t.Errorf("%d texts were found; does the test still find them?", read)
	}
}

// A sentence is a text for people in the source.
type sentence struct {
	text    string
	pos     token.Pos
	isError bool // an error, a hint or a note, not help
}

// speakers are functions whose first text is an error or a note.
var speakers = map[string]bool{"Errorf": true, "New": true, "usagef": true, "note": true, "invalidf": true}

// sentencesOf returns the texts of a file that have words. Parts joined by + are one text.
func sentencesOf(file *ast.File) (all []sentence) {
	var visit func(n ast.Node, isError bool)
	visit = func(n ast.Node, isError bool) {
		ast.Inspect(n, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ImportSpec, *ast.Field:
				return false
			case *ast.CallExpr:
				name := ""
				switch fun := n.Fun.(type) {
				case *ast.SelectorExpr:
					name = fun.Sel.Name
				case *ast.Ident:
					name = fun.Name
				}
				for _, arg := range n.Args {
					visit(arg, isError || speakers[name])
				}
				visit(n.Fun, isError)
				return false
			case *ast.CompositeLit:
				if id, ok := n.Type.(*ast.Ident); ok && id.Name == "exitError" {
					for _, e := range n.Elts {
						visit(e, true)
					}
					return false
				}
			case *ast.BinaryExpr, *ast.BasicLit:
				text, ok := literalText(n.(ast.Expr))
				if ok && strings.Contains(text, " ") && !strings.Contains(text, "SELECT ") {
					all = append(all, sentence{text, n.Pos(), isError})
				}
				return !ok
			}
			return true
		})
	}
	visit(file, false)
	return all
}

// literalText returns the text of string literals, also of several that are joined.
func literalText(e ast.Expr) (text string, ok bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind != token.STRING {
			return "", false
		}
		text, err := strconv.Unquote(e.Value)
		return text, err == nil
	case *ast.BinaryExpr:
		x, okX := literalText(e.X)
		y, okY := literalText(e.Y)
		return x + y, e.Op == token.ADD && okX && okY
	}
	return "", false
}
