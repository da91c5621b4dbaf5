package dbfile

import "fmt"

// A Role says what a file holds: the log itself or a copy of parts of it.
type Role string

// The roles of a file.
const (
	Server Role = "server"
	Client Role = "client"
)

// Backup is the role of a file written by a backup. When served, it becomes a new log
// that continues the old one: otherwise ids assigned after the backup would be assigned
// again, to other events.
const Backup Role = "backup"

// Wrong returns an ErrRole that names the role of the file.
func (r Role) Wrong() error { return fmt.Errorf("%w: it is %s", ErrRole, r.describe()) }

func (r Role) describe() string {
	switch r {
	case Server:
		return "a server's log, not a copy"
	case Client:
		return "a local copy, not a server's log"
	}
	return "a " + string(r)
}
