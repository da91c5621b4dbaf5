package deliver

import (
	"context"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

// A cacheStore is a consumer of a copy, and the copy.
type cacheStore struct {
	*cache.Consumer
	db   *cache.DB
	name string
}

// NewStore returns the store of a consumer that holds its cursor in db.
func NewStore(db *cache.DB, c *cache.Consumer, name string) Store { return &cacheStore{c, db, name} }

func (s *cacheStore) Blocked(ctx context.Context) ([]cache.BlockedStorage, error) {
	return s.db.Blocked(ctx, s.name)
}

func (s *cacheStore) EventsByID(ctx context.Context, ids []event.ID) ([]event.Event, error) {
	return s.db.EventsByID(ctx, ids)
}

func (s *cacheStore) ReadStorage(ctx context.Context, st event.Storage, after, until event.ID, limit int) ([]event.Event, event.ID, error) {
	return s.db.Read(ctx, []event.Topic{event.Exactly(st)}, after, until, limit)
}

func (s *cacheStore) AskedAgain(ctx context.Context) ([]cache.DeadLetter, error) {
	return s.db.DeadLetters(ctx, s.name, true, 0, 100)
}
