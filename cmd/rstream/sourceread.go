package main

import (
	"context"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/source"
)

// openSourceOffline opens the file of the source for reading.
func (a *app) openSourceOffline(ctx context.Context) (*cache.DB, error) {
	return a.openFile(ctx, a.source.path, "\"rstream sync\" or \"rstream tail\" of the source creates it")
}

// getFromSource is runGet for a source.
func getFromSource(ctx context.Context, a *app, o getOptions, storage event.Storage, at *event.Moment) error {
	db, err := a.openSourceOffline(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	topic, until := event.Exactly(storage), db.Head()
	if at != nil {
		if until, err = offlinePosition(ctx, db, *at, until); err != nil {
			return err
		}
	}
	if o.events {
		held, err := db.Held(ctx, topic)
		if err != nil {
			return err
		}
		for _, span := range held {
			if err := db.Each(ctx, []event.Topic{topic}, span, a.out.writeEvent); err != nil {
				return err
			}
		}
		return nil
	}
	var last *event.Event
	err = db.State(ctx, topic, until, func(ev *event.Event) error {
		last = ev
		return nil
	})
	if err != nil {
		return err
	}
	if last == nil {
		return &exitError{status: exitFailed, text: storage.String() + ": has no value"}
	}
	return o.printGot(ctx, a, last, func(ctx context.Context, id event.ID) (client.Origin, bool, error) {
		found, err := db.Origins(ctx, []event.ID{id})
		if err != nil {
			return client.Origin{}, false, err
		}
		return client.Origin{ID: id, Source: found[0].Source, Log: found[0].Log, Event: found[0].ID}, true, nil
	})
}

// A sourceStatus is how a source is, as status prints it.
type sourceStatus struct {
	Type    string      `json:"type"`
	Source  string      `json:"source"`
	URL     string      `json:"url"`
	Kind    string      `json:"kind"`
	File    string      `json:"file"`
	Head    event.ID    `json:"head"`
	Events  int64       `json:"events"`
	Bytes   int64       `json:"bytes"`
	Cursor  string      `json:"cursor"`
	Stored  *event.Time `json:"stored"` // when something was last stored; null for never, or if the source was reset since
	Trouble string      `json:"trouble,omitempty"`
	Gaps    int         `json:"gaps"` // so far, also those that are no longer in the file
	Refused int         `json:"refused"`
}

// runSourceStatus prints how a source is, offline.
func runSourceStatus(ctx context.Context, a *app) error {
	db, err := a.openSourceOffline(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	r := sourceStatus{Type: "status", Source: a.source.name, URL: source.ShownURL(a.source.url), Kind: a.source.kind.Name, File: a.source.path, Head: db.Head()}
	known, err := a.readSourceStatus(ctx, db)
	if err != nil {
		return err
	}
	r.Cursor, r.Trouble, r.Gaps, r.Refused = known.Cursor, known.Trouble, known.Gaps, known.Refused
	if known.Stored != 0 {
		r.Stored = &known.Stored
	}
	size, err := db.Count(ctx)
	if err != nil {
		return err
	}
	r.Events, r.Bytes = size.Events, size.Bytes
	if r.Events == 0 {
		r.Stored = nil // why there is no connection, and no event
	}
	if !a.out.isForPerson() {
		return a.out.writeJSON(r)
	}
	return a.out.printSourceStatus(&r)
}

// readSourceStatus reads what the file says of the source.
func (a *app) readSourceStatus(ctx context.Context, db *cache.DB) (source.Status, error) {
	state, err := db.SourceState(ctx, a.source.name)
	if err != nil {
		return source.Status{}, err
	}
	return source.ReadStatus(state)
}

func (o *output) printSourceStatus(r *sourceStatus) error {
	stored := ""
	switch {
	case r.Stored != nil:
		stored = localTime(*r.Stored)
	case r.Events == 0:
		stored = "never"
	}
	for _, row := range [][2]string{
		{"source", r.Source + "  " + r.URL + "  (" + r.Kind + ")"}, {"file", r.File + "  " + formatSize(r.Bytes)},
		{"events", count(r.Events, "event") + ", up to " + r.Head.String()}, {"cursor", r.Cursor}, {"stored", stored},
		{"aside", count(r.Gaps, "gap") + ", " + count(r.Refused, "refused event")}, {"trouble", r.Trouble},
	} {
		if row[1] == "" {
			continue
		}
		if err := o.printf("%-8s %s\n", row[0], visible(row[1])); err != nil {
			return err
		}
	}
	return nil
}
