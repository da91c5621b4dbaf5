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

// An owner is one opening of a file, as rows name it: HOST/PID/RANDOM, and after that,
// if it could take its lock, the file of locks in which it holds one, as BOOT.DEV.INODE.
//
// The lock is one byte of FILE.owners, at a place that follows from the name. The kernel
// takes it away with the process, also with one that was killed and that nobody has waited
// for. Without a lock, on a file system that has none, an owner is known by its process
// number and by its lease.
type owner struct {
	base string // HOST/PID/RANDOM
	path string // FILE.owners

	once sync.Once
	name string   // set by once
	file *os.File // set by once: holds the lock; nil without one
}

// newOwner names this process's use of a file: where and what it is, and something
// random, since process numbers come again.
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

// String returns the name for rows. It takes the lock first: what only reads makes no
// file of locks.
func (o *owner) String() string {
	o.once.Do(func() {
		o.name = o.base
		f, err := os.OpenFile(o.path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return // the lease has to do
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

// seesLock reports whether the lock of our own name is seen through another opening of
// the file: some file systems grant every lock and know of none.
func (o *owner) seesLock(name string) bool {
	f, err := os.Open(o.path)
	if err != nil {
		return false
	}
	defer f.Close()
	locked, err := lockedAt(f, lockPlace(name))
	return err == nil && locked && strings.HasSuffix(name, "/"+lockFileID(f))
}

// lockPlace returns which byte the owner name locks. Nothing is ever written there.
func lockPlace(name string) int64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	return int64(h.Sum64() >> 2)
}

// close lets the lock go.
func (o *owner) close() error {
	o.once.Do(func() {}) // none is taken any more
	if o.file == nil {
		return nil
	}
	return o.file.Close()
}

// is reports whether name is ours.
func (o *owner) is(name string) bool {
	return name == o.base || strings.HasPrefix(name, o.base+"/")
}

// A presence is what can be known of another owner.
type presence int

const (
	unknown presence = iota // its lease decides
	gone
	present
)

// presenceOf finds out whether the owner name is still there.
func (o *owner) presenceOf(name string) presence {
	if o.is(name) {
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

// lockOf looks for the lock of the owner name. If its file of locks is not the one that
// lies there now, or belongs to another kernel, nothing follows from what is seen.
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

// lockFileID names an open file of locks, and the kernel that keeps its locks.
func lockFileID(f *os.File) string {
	kernel := machine.Boot()
	if kernel == "" {
		kernel, _ = os.Hostname() // empty is a name, too
	}
	return strings.ReplaceAll(kernel, "/", "_") + "." + fileID(f)
}

// processGone reports whether other is a process of our machine that has ended.
func processGone(self, other string) bool {
	host, rest, _ := strings.Cut(other, "/")
	if !strings.HasPrefix(self, host+"/") {
		return false
	}
	number, _, _ := strings.Cut(rest, "/")
	pid, err := strconv.Atoi(number)
	return err == nil && pid > 0 && pid != os.Getpid() && !processExists(pid)
}

// ErrLost means that a lease, of a window or a cursor, has passed to another process.
var ErrLost = errors.New("it was taken over by another process")

// LeaseTime is how long a window stays with a process that says nothing. Each
// Apply renews it, and a quiet live window gets a heartbeat every 15 seconds.
const LeaseTime = 60 * time.Second

// OwnerName returns what rows call this opening of the file.
func (f *File) OwnerName() string { return f.owner.String() }

// LeaseEnd returns when a lease ends that is renewed now, in milliseconds.
func (f *File) LeaseEnd() int64 { return f.Now().Add(LeaseTime).UnixMilli() }

// Stale reports whether an owner has let its lease go: there is none, the lease
// has ended, or the owner is gone. Our own leases grow stale, too: one that nobody
// fills must not keep others out for as long as the process lives.
func (f *File) Stale(owner string, lease int64) bool {
	return owner == "" || f.leaseOver(lease) || f.owner.presenceOf(owner) == gone
}

// leaseOver reports whether a lease has ended, or lies much further ahead than any
// lease: a clock was set back.
func (f *File) leaseOver(lease int64) bool {
	left := time.UnixMilli(lease).Sub(f.Now())
	return left <= 0 || left > 2*LeaseTime
}

// Holds reports whether an owner has what it holds for as long as it is there, however
// long it sleeps. Only of one whose lock cannot be seen the lease decides.
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
