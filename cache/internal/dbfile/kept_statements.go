package dbfile

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
)

// maxKept is how many statements a connection keeps prepared: more than any kind of work
// uses again and again. Each takes some kilobytes.
const maxKept = 64

// A keepingConnector opens connections that keep the statements prepared that they run
// without being told to: preparing one takes as long as reading dozens of rows. SQLite prepares one
// with "LIMIT ?" again at each run, since the plan depends on the number; "LIMIT ? + 0" it does not.
type keepingConnector struct{ driver.Connector }

// Connect implements driver.Connector.
func (c keepingConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	plain, ok := conn.(plainConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("the driver's connection, a %T, lacks a method", conn), conn.Close())
	}
	return &keepingConn{plainConn: plain, kept: map[string]*keptStatement{}}, nil
}

// A plainConn is a connection of the driver. Methods that are not listed here are lost by the
// wrapping.
type plainConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.Pinger
	driver.QueryerContext
	driver.SessionResetter
	driver.Validator
}

// A keepingConn is a connection that keeps statements prepared. Like any driver.Conn, it is
// used by one goroutine at a time.
type keepingConn struct {
	plainConn
	kept map[string]*keptStatement // by text
	runs int64                     // so far, of kept statements
}

// A keptStatement is a statement of a keepingConn.
type keptStatement struct {
	driver.Stmt
	busy bool  // its rows are being read
	last int64 // run of it
}

// isKept reports whether a statement may be kept. A PRAGMA may not: some of them work while
// they are prepared.
func isKept(query string) bool {
	verb, _, _ := strings.Cut(query, " ")
	switch verb {
	case "SELECT", "INSERT", "UPDATE", "DELETE":
		return true
	}
	return false
}

// take returns the kept statement of query, which is prepared if need be, or nil if it
// cannot be used now.
func (c *keepingConn) take(ctx context.Context, query string) (*keptStatement, error) {
	s := c.kept[query]
	switch {
	case s == nil && !isKept(query):
		return nil, nil
	case s == nil:
		stmt, err := c.PrepareContext(ctx, query)
		if err != nil {
			return nil, err
		}
		c.makeRoom()
		s = &keptStatement{Stmt: stmt}
		c.kept[query] = s
	case s.busy:
		return nil, nil
	}
	c.runs++
	s.busy, s.last = true, c.runs
	return s, nil
}

// makeRoom drops the statement that was not run for longest, if there are too many.
func (c *keepingConn) makeRoom() {
	if len(c.kept) < maxKept {
		return
	}
	oldest, text := c.runs+1, ""
	for query, s := range c.kept {
		if !s.busy && s.last < oldest {
			oldest, text = s.last, query
		}
	}
	if s := c.kept[text]; s != nil {
		_ = c.drop(text, s) // an error of it was returned when it ran
	}
}

func (c *keepingConn) drop(query string, s *keptStatement) error {
	delete(c.kept, query)
	return s.Stmt.Close()
}

// release ends the use of a statement. After an error it is not kept.
func (c *keepingConn) release(query string, s *keptStatement, err error) {
	s.busy = false
	if err != nil {
		_ = c.drop(query, s) // repeats err
	}
}

// ExecContext implements driver.ExecerContext.
func (c *keepingConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	s, err := c.take(ctx, query)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return c.plainConn.ExecContext(ctx, query, args)
	}
	res, err := s.Stmt.(driver.StmtExecContext).ExecContext(ctx, args)
	c.release(query, s, err)
	return res, err
}

// QueryContext implements driver.QueryerContext.
func (c *keepingConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	s, err := c.take(ctx, query)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return c.plainConn.QueryContext(ctx, query, args)
	}
	rows, err := s.Stmt.(driver.StmtQueryContext).QueryContext(ctx, args)
	if err != nil {
		c.release(query, s, err)
		return nil, err
	}
	return &keptRows{Rows: rows, release: func(err error) { c.release(query, s, err) }}, nil
}

// Close implements driver.Conn.
func (c *keepingConn) Close() error {
	for query, s := range c.kept {
		_ = c.drop(query, s) // an error of it was returned when it ran
	}
	return c.plainConn.Close()
}

// keptRows are the rows of a kept statement.
type keptRows struct {
	driver.Rows
	release func(error)
}

// Close implements driver.Rows.
func (r *keptRows) Close() error {
	err := r.Rows.Close()
	r.release(err)
	return err
}
