package cache

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

// Any damage of a kept state is found, and the state is dropped; the others stay.
func TestDamagedStates(t *testing.T) {
	ctx := context.Background()
	evs := bigLogFile().evs[:100]
	check := func(what string, db *DB, want int) {
		t.Helper()
		for _, drop := range []bool{false, false, true} {
			if n, err := db.Snapshots().DamagedStates(ctx, drop); n != want || err != nil {
				t.Fatalf("%s: %d are damaged, %v, want %d", what, n, err, want)
			}
		}
		if n, err := db.Snapshots().DamagedStates(ctx, true); n != 0 || err != nil {
			t.Fatalf("%s: %d are damaged still, %v", what, n, err)
		}
	}
	db := openClient(t)
	keep(t, db, evs, event.All, 90)
	keep(t, db, evs, event.All, 60)
	before := kept(t, db)
	if len(before) != 2 {
		t.Fatalf("kept are %q", before)
	}
	check("nothing", db, 0)
	var members []byte
	if err := db.file.Read.QueryRow(`SELECT members FROM part WHERE snapshot = (SELECT id FROM snapshot WHERE at = 90)`).Scan(&members); err != nil {
		t.Fatal(err)
	}
	bad := map[string][]byte{"no members": nil, "half": members[:len(members)/2]}
	for i := 0; i < len(members); i += 397 {
		b := bytes.Clone(members)
		b[i] ^= 1
		bad[fmt.Sprint("byte ", i)] = b
	}
	for what, b := range bad {
		if err := rawExec(db, `UPDATE part SET members = ? WHERE snapshot = (SELECT id FROM snapshot WHERE at = 90)`, append([]byte{}, b...)); err != nil {
			t.Fatal(err)
		}
		check(what, db, 1)
		checkKept(t, what, db, before[0])
		keep(t, db, evs, event.All, 90)
	}
	if err := rawExec(db, `DELETE FROM part`); err != nil {
		t.Fatal(err)
	}
	check("no parts", db, 2)
	checkKept(t, "no parts", db)
	if n, err := db.Aside(ctx); err != nil || n != (Aside{}) {
		t.Errorf("%+v, %v", n, err)
	}
}

// A state gives way only to a later one that is sound, and a damaged one keeps no other from being
// retired.
func TestRetireBesideDamage(t *testing.T) {
	ctx := context.Background()
	evs := bigLogFile().evs[:100]
	db := openClient(t)
	keep(t, db, evs, event.All, 60)
	keep(t, db, evs, event.All, 90)
	retire := func() (at event.ID) {
		t.Helper()
		err := db.file.Update(ctx, func(tx *sql.Tx) error {
			id, err := db.snapshots.Retire(tx, 100)
			if err == nil && id != 0 {
				err = tx.QueryRow(`SELECT at FROM snapshot WHERE id = ?`, id).Scan(&at)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	mustExec(t, db, `UPDATE snapshot SET count = count + 1 WHERE at = 90`)
	if at := retire(); at != 0 {
		t.Errorf("the state at %s is retired, and the only later one is damaged", at)
	}
	mustExec(t, db, `UPDATE snapshot SET count = count - 1 WHERE at = 90`)
	keep(t, db, evs, event.All, 40)
	mustExec(t, db, `UPDATE snapshot SET count = count + 1 WHERE at = 40`)
	if at := retire(); at != 60 {
		t.Errorf("the state at %s is retired, want that at %s", at, event.ID(60))
	}
	if at := retire(); at != 0 {
		t.Errorf("the state at %s is retired, too", at)
	}
}
