package pages

import _ "embed"

// Schema creates the tables. No migration of dbfile has them yet.
//
//go:embed schema.sql
var Schema string
