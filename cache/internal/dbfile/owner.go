package dbfile

import (
	"crypto/rand"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rstream-dev/rstream/internal/machine"
)

// An owner is one opening of a file, by its name in rows: HOST/PID/RANDOM. If it could
// take its lock, the name ends with the id of the lock file, as BOOT.DEV.INODE.
//
// The lock is one byte of FILE.owners, at an offset derived from the name. The kernel
// releases it with the process, even if the process was killed and is still a zombie.
// Without a lock, on a file system that has none, the process number and the lease decide
// whether an owner is alive.
type owner struct {
	base string // HOST/PID/RANDOM
	path string // FILE.owners

	once sync.Once
	name string   // set by once
	file *os.File // set by once: holds the lock; nil without one
}

// newOwner names this opening of a file by host, process and random bytes, since process
// numbers are reused.
func newOwner(file string) *owner {
	host, err := os.Hostname()
	if err != nil {
		host = "?"
	}
	return &owner{
		base: fmt.Sprintf("%s/%d/%s", strings.ReplaceAll(host, "/", "_"), os.Getpid(), rand.Text()[:8]),
		path: file + ".owners",
	}
}

// String returns the name for rows. The first call takes the lock, so that a process that
// only reads creates no lock file.
func (o *owner) String() string {
	o.once.Do(func() {
		o.name = o.base
		f, err := os.OpenFile(o.path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return // the lease has to suffice
		}
		name := o.base + "/" + lockFileID(f)
		if lockAt(f, lockPlace(name)) != nil || !o.seesLock(name) {
			f.Close()
			return
		}
		o.name, o.file = name, f
	})
	return o.name
}

// seesLock reports whether another opening of the file sees the lock of our own name:
// some file systems grant every lock and enforce none.
func (o *owner) seesLock(name string) bool {
	f, err := os.Open(o.path)
	if err != nil {
		return false
	}
	defer f.Close()
	locked, err := lockedAt(f, lockPlace(name))
	return err == nil && locked && strings.HasSuffix(name, "/"+lockFileID(f))
}

// lockPlace returns the byte that the owner name locks. Nothing is ever written there.
func lockPlace(name string) int64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	return int64(h.Sum64() >> 2)
}

// close releases the lock.
func (o *owner) close() error {
	o.once.Do(func() {}) // take no lock from now on
	if o.file == nil {
		return nil
	}
	return o.file.Close()
}

// isOwner reports whether name is ours.
func (o *owner) isOwner(name string) bool {
	return name == o.base || strings.HasPrefix(name, o.base+"/")
}

// A presence says whether another owner is alive.
type presence int

const (
	unknown presence = iota // its lease decides
	gone
	present
)

// presenceOf finds out whether the owner name is alive.
func (o *owner) presenceOf(name string) presence {
	if o.isOwner(name) {
		return present
	}
	if p := o.lockOf(name); p != unknown {
		return p
	}
	if processGone(o.base, name) {
		return gone
	}
	return unknown
}

// lockOf looks for the lock of the owner name. If the owner's lock file is not the
// current one, or belongs to another kernel, the answer is unknown.
func (o *owner) lockOf(name string) presence {
	parts := strings.SplitN(name, "/", 4)
	if len(parts) < 4 {
		return unknown
	}
	f, err := os.Open(o.path)
	if err != nil {
		return unknown
	}
	defer f.Close()
	if parts[3] != lockFileID(f) {
		return unknown
	}
	switch locked, err := lockedAt(f, lockPlace(name)); {
	case err != nil:
		return unknown
	case locked:
		return present
	}
	return gone
}

// lockFileID identifies an open lock file and the kernel that keeps its locks.
func lockFileID(f *os.File) string {
	kernel := machine.Boot()
	if kernel == "" {
		kernel, _ = os.Hostname() // an empty name will do, too
	}
	return strings.ReplaceAll(kernel, "/", "_") + "." + fileID(f)
}

// processGone reports whether other names a process of our machine that has ended.
func processGone(self, other string) bool {
	host, rest, _ := strings.Cut(other, "/")
	if !strings.HasPrefix(self, host+"/") {
		return false
	}
	number, _, _ := strings.Cut(rest, "/")
	pid, err := strconv.Atoi(number)
	return err == nil && pid > 0 && pid != os.Getpid() && !processExists(pid)
}

// ErrLost means that another process has taken over a lease, of a window or a cursor.
var ErrLost = errors.New("it was taken over by another process")

// LeaseTime is how long a window stays with a process that does not renew its lease. Each
// Apply renews it, and a quiet live window gets a heartbeat every 15 seconds.
const LeaseTime = 60 * time.Second

// OwnerName returns the name of this opening of the file in rows.
func (f *File) OwnerName() string { return f.owner.String() }

// LeaseEnd returns the end of a lease renewed now, in Unix milliseconds.
func (f *File) LeaseEnd() int64 { return f.Now().Add(LeaseTime).UnixMilli() }

// Stale reports whether a lease is free to take: it has no owner, has ended, or its owner
// is gone. lease is its end in Unix milliseconds. Our own leases become stale, too: one
// that nobody fills must not keep others out while the process lives.
func (f *File) Stale(owner string, lease int64) bool {
	return owner == "" || f.leaseOver(lease) || f.owner.presenceOf(owner) == gone
}

// leaseOver reports whether a lease has ended, or ends later than any lease can, since a
// clock was set back.
func (f *File) leaseOver(lease int64) bool {
	left := time.UnixMilli(lease).Sub(f.Now())
	return left <= 0 || left > 2*LeaseTime
}

// Holds reports whether an owner is still alive, however long it sleeps. The lease
// decides only if the owner's lock cannot be seen.
func (f *File) Holds(owner string, lease int64) bool {
	if owner == "" {
		return false
	}
	switch f.owner.presenceOf(owner) {
	case present:
		return true
	case gone:
		return false
	}
	return !f.leaseOver(lease)
}
