package dbfile

// A Role says what a file is: the log itself or a copy of parts of it.
type Role string

// The roles of a file.
const (
	Server Role = "server"
	Client Role = "client"
)

// Backup is the role of a file that Backup wrote. Served, it becomes a new log that
// goes on from the old one: ids given after the backup would otherwise be given
// again, to other events.
const Backup Role = "backup"
