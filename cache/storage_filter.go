package cache

import (
	"fmt"
	"strings"
	"sync"

	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/event"
)

// A storageFilter finds the events of topics by the numbers of their storages. It looks at
// the names in a line only if it does not know the number yet: looking at all of them would
// cost as much as reading the lines. A storage never gets another number.
type storageFilter struct {
	topics []event.Topic
	known  numberSet // storages whose names were looked at
	wanted numberSet // those of them that belong to the topics
	dense  bool      // many of the events that were read last belong to the topics
	scans  bool      // so many that a scan costs less than seeking their lines
}

// wants reports whether a line belongs to the topics.
func (f *storageFilter) wants(l pages.Line) (bool, error) {
	if f.known.has(l.Storage) {
		return f.wanted.has(l.Storage), nil
	}
	s, err := event.Skim(l.Text)
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	wanted := false
	for _, t := range f.topics {
		wanted = wanted || t.Matches(string(s.User), string(s.Path))
	}
	f.known.add(l.Storage)
	if wanted {
		f.wanted.add(l.Storage)
	}
	return wanted, nil
}

// lineFilter returns f as the filter of a scan.
func (f *storageFilter) lineFilter() lineFilter {
	return lineFilter{storage: func(n int64) bool { return !f.known.has(n) || f.wanted.has(n) }, line: f.wants}
}

// all reports whether every event belongs to the topics.
func (f *storageFilter) all() bool { return len(f.topics) > 0 && f.topics[0] == event.All }

// A numberSet is a set of numbers, which ignores large ones.
type numberSet []uint64

// maxNumber bounds the memory of a numberSet to 64 KiB.
const maxNumber = 1 << 19

func (s *numberSet) add(n int64) {
	if n < 0 || n >= maxNumber {
		return
	}
	for int64(len(*s)) <= n/64 {
		*s = append(*s, 0)
	}
	(*s)[n/64] |= 1 << (n % 64)
}

func (s numberSet) has(n int64) bool {
	return n >= 0 && n/64 < int64(len(s)) && s[n/64]&(1<<(n%64)) != 0
}

// keptFilters are the filters of recent reads, for reads that continue them.
type keptFilters struct {
	mu      sync.Mutex
	filters map[string]*storageFilter
}

// maxFilters and maxFilterTopics bound the kept filters, and the topics of one.
const (
	maxFilters      = 64
	maxFilterTopics = 100
)

// take returns a filter of topics, which nobody else uses until it is put back.
func (k *keptFilters) take(topics []event.Topic) *storageFilter {
	if len(topics) > maxFilterTopics {
		return &storageFilter{topics: topics}
	}
	name := filterName(topics)
	k.mu.Lock()
	defer k.mu.Unlock()
	f := k.filters[name]
	if f == nil {
		return &storageFilter{topics: topics}
	}
	delete(k.filters, name)
	return f
}

// put keeps a filter.
func (k *keptFilters) put(f *storageFilter) {
	if len(f.topics) > maxFilterTopics {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.filters) >= maxFilters || k.filters == nil {
		k.filters = map[string]*storageFilter{}
	}
	k.filters[filterName(f.topics)] = f
}

func filterName(topics []event.Topic) string {
	if len(topics) == 1 {
		return topics[0].String()
	}
	names := make([]string, len(topics))
	for i, t := range topics {
		names[i] = t.String()
	}
	return strings.Join(names, "\n")
}
