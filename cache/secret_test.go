package cache

import (
	"bytes"
	"database/sql"
	"os"
	"strings"
	"testing"
)

// Passwords that an earlier version stored are no longer in the file, not even in its free
// pages.
func TestStoredPasswordsGo(t *testing.T) {
	path := goldenCopy(t, "0005-client.db")
	const secret = "Hunter2"
	raw, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Exec(`INSERT INTO source (url, seen) VALUES ('http://user:Hunter2@127.0.0.1:1', 1), ('http://user:Hunter2@127.0.0.1:1/base', 2), ('http://127.0.0.1:2/', 3)`); err != nil {
		t.Fatal(err)
	}
	if err := raw.Close(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || !bytes.Contains(b, []byte(secret)) {
		t.Fatalf("the file does not have the password, %v", err)
	}
	db := mustOpen(t, path, Config{Role: Client, Log: testLog})
	urls, err := db.Sources(t.Context())
	if err != nil || len(urls) == 0 || strings.Contains(strings.Join(urls, " "), "@") {
		t.Errorf("sources are %q, %v", urls, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || bytes.Contains(b, []byte(secret)) {
		t.Errorf("the file has the password, %v", err)
	}
}
