package testfile

import "regexp"

var (
	sqlComment = regexp.MustCompile(`--[^\n]*`)
	sqlSpace   = regexp.MustCompile(`\s+`)
	sqlMark    = regexp.MustCompile(` ?([(),]) ?`)
)

// PlainSQL returns a statement without its comments and its layout. Migrations that add
// columns lay a statement out in another way than the schema of a new file.
func PlainSQL(text string) string {
	text = sqlSpace.ReplaceAllString(sqlComment.ReplaceAllString(text, " "), " ")
	return sqlMark.ReplaceAllString(text, "$1")
}
