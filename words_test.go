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

// An error, or a clause of a hint, fits a line of a terminal. If names make it longer, its words
// alone do.
const (
	maxLine     = 80
	maxSentence = maxLine - len("rstream: error: ")
)

// clauseEnd is where a hint may begin a new line, and verb a name in a format.
var (
	clauseEnd = regexp.MustCompile(`; |\. |\n`)
	verb      = regexp.MustCompile(`%[-+#.0-9]*(\[\d\])?[a-z]`)
)

// tooWide returns a line of an error or hint that is too wide, "" if there is none.
func (s *sentence) tooWide() string {
	lines := []string{s.text}
	if s.isHint {
		lines = clauseEnd.Split(s.text, -1)
	}
	for _, line := range lines {
		limit := maxSentence
		if verb.MatchString(line) {
			line, limit = verb.ReplaceAllString(line, ""), maxLine
		}
		if s.isError && utf8.RuneCountInString(line) > limit {
			return line
		}
	}
	return ""
}

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
			if line := s.tooWide(); line != "" {
				t.Errorf("%s: a line of %d columns: %s", files.Position(s.pos), utf8.RuneCountInString(line), line)
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
	isHint  bool // which has a line for each clause, if it is long
}

// speakers are functions whose first text is an error or a note.
var speakers = map[string]bool{"Errorf": true, "New": true, "usagef": true, "note": true, "invalidf": true}

// sentencesOf returns the texts of a file that have words. Parts joined by + are one text.
func sentencesOf(file *ast.File) (all []sentence) {
	var visit func(n ast.Node, isError, isHint bool)
	visit = func(n ast.Node, isError, isHint bool) {
		ast.Inspect(n, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ImportSpec, *ast.Field:
				return false
			case *ast.FuncDecl:
				if n.Body != nil && !isHint && saysHint(n.Name.Name) {
					visit(n.Body, true, true)
					return false
				}
			case *ast.ValueSpec:
				if !isHint && saysHint(n.Names[0].Name) {
					for _, value := range n.Values {
						visit(value, true, true)
					}
					return false
				}
			case *ast.CallExpr:
				name := ""
				switch fun := n.Fun.(type) {
				case *ast.SelectorExpr:
					name = fun.Sel.Name
				case *ast.Ident:
					name = fun.Name
				}
				for _, arg := range n.Args {
					visit(arg, isError || speakers[name], isHint)
				}
				visit(n.Fun, isError, isHint)
				return false
			case *ast.CompositeLit:
				if id, ok := n.Type.(*ast.Ident); ok && id.Name == "exitError" {
					for i, e := range n.Elts {
						pair, named := e.(*ast.KeyValueExpr)
						visit(e, true, i == 2 || named && saysHint(pair.Key.(*ast.Ident).Name))
					}
					return false
				}
			case *ast.BinaryExpr, *ast.BasicLit:
				text, ok := literalText(n.(ast.Expr))
				if ok && strings.Contains(text, " ") && !strings.Contains(text, "SELECT ") {
					all = append(all, sentence{text, n.Pos(), isError, isHint})
				}
				return !ok
			}
			return true
		})
	}
	visit(file, false, false)
	return all
}

// saysHint reports whether a name is that of a hint.
func saysHint(name string) bool { return strings.Contains(strings.ToLower(name), "hint") }

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
