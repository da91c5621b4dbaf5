package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

type putOptions struct {
	text  string
	isTxt bool
	key   string
	lines bool
	from  string
	delivery
}

func newPutCommand(a *app) *cobra.Command {
	var o putOptions
	cmd := &cobra.Command{
		Annotations: map[string]string{silentAnnotation: silentIfQuiet},

		Use:     "put STORAGE VALUE [flags]\n  rstream put STORAGE --lines [flags]\n  rstream put --from FILE [flags]",
		GroupID: groupWrite,
		Short:   "Append values",

		ValidArgsFunction: a.completeStorage,
		Long: `Append one value or many, and print the events as the log stored them.

VALUE is JSON of at most 1 MiB; - reads it from standard input and @FILE from a file. A
key makes an append safe to repeat: the same storage, key and value are appended only
once. Without --key each append gets a new key. If the outcome of an append is unknown,
the error says so, and the hint names the key that makes a repeat safe.

--from reads events, one JSON object per line, with user, path and value, and
optionally type and key. A line without a key is a new event each time. Lines that
rstream prints have keys, so piping a stream from one server to another is safe to
repeat. The file may be compressed with gzip or zstd. An error says which lines were
appended, for which lines this is unknown, and from which line to continue.

put keeps appending if the reader of its output exits, as in "| head -1".

--offline stores the append in the outbox of the local copy; the next sync sends it,
once. "rstream outbox" lists the outbox.`,
		Example: `  rstream put alice/posts/1 '{"n":1}'
  rstream put alice/notes/today --text "hello"
  echo '{"n":2}' | rstream put alice/posts/2 -
  seq 10 | rstream put alice/counter --lines
  rstream put --from events.jsonl
  rstream put alice/notes/today --text "on a train" --offline`,
		DisableFlagsInUseLine: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 2 {
				return usagef("want one value, not also %q; quote a value with spaces", args[2])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.isTxt = cmd.Flags().Changed("text")
			return runPut(cmd.Context(), a, o, args)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.text, "text", "", "append `STRING` as a JSON string")
	f.StringVar(&o.key, "key", "", "idempotency `KEY` of the append")
	f.BoolVar(&o.lines, "lines", false, "each line of standard input is a value")
	f.StringVar(&o.from, "from", "", "each line of `FILE` is an event; - is standard input")
	addProgress(a, cmd)
	o.delivery.addDeliveryFlags(cmd)
	excludeFlags(cmd, "text", "VALUE", "lines", "from")
	excludeFlags(cmd, "lines", "VALUE", "key", "from")
	excludeFlags(cmd, "from", "STORAGE", "key")
	forLineOnly(f, "lines") // in tail, lines is a number
	return cmd
}

// newDraft returns an append to a storage, without its value.
func newDraft(name string, typ event.Type, key string) (event.Draft, error) {
	storage, err := event.ParseStorage(name)
	if err != nil {
		return event.Draft{}, &usageError{err}
	}
	if err := event.CheckKey(key); err != nil {
		return event.Draft{}, &usageError{err}
	}
	return event.Draft{User: storage.User, Path: storage.Path, Type: typ, Key: orNewKey(key)}, nil
}

func orNewKey(key string) string {
	if key == "" {
		return rand.Text()
	}
	return key
}

func runPut(ctx context.Context, a *app, o putOptions, args []string) error {
	switch {
	case o.from != "" || o.lines && len(args) == 0:
		return runPutEvents(ctx, a, o, args)
	case len(args) == 0:
		return usagef("want a storage such as alice/posts/1 and a value, or --from FILE")
	case o.lines:
		return runPutLines(ctx, a, o, args)
	}
	d, err := newDraft(args[0], event.Put, o.key)
	if err != nil {
		return err
	}
	if d.Value, err = valueOfArgs(ctx, a, o, args[1:]); err != nil {
		return err
	}
	if err := d.CheckNew(); err != nil {
		return &usageError{err}
	}
	return a.deliverOne(ctx, o.delivery, d)
}

// valueOfArgs returns the value that the arguments give.
func valueOfArgs(ctx context.Context, a *app, o putOptions, args []string) ([]byte, error) {
	switch {
	case o.isTxt:
		return jsonString(o.text)
	case len(args) == 0:
		return nil, usagef("want a value: JSON, -, @FILE or --text STRING")
	}
	raw := []byte(args[0])
	var err error
	switch {
	case args[0] == "-":
		a.noteTerminal("a value")
		raw, err = orSignal(ctx, func() ([]byte, error) { return readValue(a.in) })
	case strings.HasPrefix(args[0], "@"):
		raw, err = readValueFile(ctx, args[0][1:])
	}
	if err != nil {
		return nil, err
	}
	v, err := event.CompactValue(raw)
	if err != nil {
		return nil, usagef("%w (for plain text use --text)", err)
	}
	return v, nil
}

// jsonString encodes s without the HTML escapes of encoding/json.
func jsonString(s string) ([]byte, error) {
	if !utf8.ValidString(s) {
		return nil, usagef("--text is not valid UTF-8")
	}
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(s)
	return []byte(strings.TrimSuffix(b.String(), "\n")), err
}

func readValueFile(ctx context.Context, path string) ([]byte, error) {
	f, err := openInput(ctx, path)
	if err != nil {
		return nil, err
	}
	return orSignal(ctx, func() ([]byte, error) {
		defer f.Close() // the read may outlive ctx
		return readValue(f)
	})
}

// readValue reads a value, with some room for white space that compacting removes.
func readValue(r io.Reader) ([]byte, error) {
	const most = 16 * wire.MaxValue
	b, err := io.ReadAll(io.LimitReader(newPlainReader(r), most+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read value: %w", err)
	case len(b) > most:
		return nil, usagef("value is longer than %s", formatSize(most))
	}
	return b, nil
}

// A sendFunc appends drafts and returns a function that prints the answers. There is none if
// nothing was appended, or if they have been printed already; then err may be of printing.
type sendFunc func(drafts []event.Draft) (f fate, show showFunc, err error)

// A showFunc prints the answers to appended drafts. Its error says nothing about the log.
type showFunc func() error

// appendOnline calls fn with a function that appends.
func (a *app) appendOnline(ctx context.Context, fn func(sendFunc) error) error {
	cfg := a.clientConfig()
	cfg.Newest = a.newestInCopy(ctx) // a log that was restored from a backup must take nothing
	c, err := client.New(nil, cfg)
	if err != nil {
		return &usageError{err}
	}
	return fn(func(drafts []event.Draft) (fate, showFunc, error) {
		receipts, err := c.Put(ctx, drafts)
		if err != nil {
			return sentFate(err), nil, err
		}
		return taken, func() error { return a.printReceipts(receipts) }, nil
	})
}

func (a *app) printReceipts(receipts []event.Receipt) error {
	if a.quiet {
		return nil
	}
	for i := range receipts {
		if err := a.out.writeReceipt(&receipts[i]); err != nil {
			return err
		}
	}
	return a.out.flush()
}

// newestInCopy returns how far the copy is, if there is one that can be read.
func (a *app) newestInCopy(ctx context.Context) cache.Newest {
	db, err := a.openKnownCopy(ctx)
	if err != nil || db == nil {
		return cache.Newest{}
	}
	defer db.Close()
	newest, err := db.Newest(ctx)
	if err != nil || db.Role() != cache.Client {
		return cache.Newest{}
	}
	return newest
}
