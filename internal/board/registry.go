package board

import "sync"

// A Registry has the open connections of this process. The zero Registry is empty. Its methods
// may be called from any goroutine.
type Registry struct {
	mu       sync.Mutex
	last     uint64 // the newest id
	newest   *Entry // the others follow by older
	open     int    // number of entries
	watchers map[*Watcher]struct{}
}

// An Entry is a place in a Registry. It is part of what it stands for, so that a connection
// takes no other memory.
type Entry struct {
	reader       Reader // nil if it is in no registry
	id           uint64
	older, newer *Entry
}

// A Reader is what a Registry asks about a connection, only while somebody looks. The
// registry is locked then, so the methods must not block and must not use it.
type Reader interface {
	// Describe returns the connection, without its node and id. All but its Lag stays
	// the same for as long as it is in the registry.
	Describe() Connection
	// Lag returns how far the reader is behind.
	Lag() Lag
}

// A Watcher gets the connections of a registry and then each change of them. The registry is
// locked while it calls the functions, so they must not block and must not use it.
type Watcher struct {
	List   func([]*Connection) // once, before the others
	Opened func(*Connection)
	Closed func(id uint64)
}

// Add adds a connection. The caller must remove it.
func (r *Registry) Add(e *Entry, of Reader) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	*e = Entry{reader: of, id: r.last, older: r.newest}
	if r.newest != nil {
		r.newest.newer = e
	}
	r.newest = e
	r.open++
	for w := range r.watchers {
		w.Opened(e.describe())
	}
}

// Remove removes a connection.
func (r *Registry) Remove(e *Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.newer != nil {
		e.newer.older = e.older
	} else {
		r.newest = e.older
	}
	if e.older != nil {
		e.older.newer = e.newer
	}
	r.open--
	id := e.id
	*e = Entry{}
	for w := range r.watchers {
		w.Closed(id)
	}
}

func (e *Entry) describe() *Connection {
	c := e.reader.Describe()
	c.ID, c.Lag = e.id, e.reader.Lag()
	return &c
}

// Watch makes w get the open connections, oldest first, and then each change, until stop
// returns.
func (r *Registry) Watch(w *Watcher) (stop func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	conns := make([]*Connection, r.open)
	at := r.open
	for e := r.newest; e != nil; e = e.older {
		at--
		conns[at] = e.describe()
	}
	w.List(conns)
	if r.watchers == nil {
		r.watchers = map[*Watcher]struct{}{}
	}
	r.watchers[w] = struct{}{}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.watchers, w)
	}
}

// Lags calls fn with the lag of each connection. The registry is locked, as for a Watcher.
func (r *Registry) Lags(fn func(id uint64, lag Lag)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for e := r.newest; e != nil; e = e.older {
		fn(e.id, e.reader.Lag())
	}
}

// Open returns the number of connections.
func (r *Registry) Open() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.open
}
