package postgres_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/grammar"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/sql"
)

// catalogued is a database of a server with Databases that look at it often.
type catalogued struct {
	*postgres.Databases
	url string

	mu        sync.Mutex
	upstream  protocol.Upstream
	refuse    error // of the upstream
	forget    error // of the record
	looks     int
	records   []evidence.ImportBody
	complains int
}

func newCatalogued(t *testing.T, s *server, user string) *catalogued {
	t.Helper()
	database := strings.ToLower(strings.Map(func(r rune) rune {
		if r == '/' {
			return '_'
		}
		return r
	}, t.Name()))
	s.sql(t, "drop database if exists "+database, "create database "+database)
	pool, err := grammar.Start(grammar.Config{Workers: 1, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	c := &catalogued{upstream: s.upstream(), url: s.url(database)}
	c.upstream.Database = database
	if user != "" {
		c.upstream.User, c.upstream.Password = user, user
	}
	c.Databases = postgres.NewDatabases(postgres.DatabasesConfig{
		Grammar: pool, Look: 50 * time.Millisecond, Lapse: 2 * time.Second, Logger: slog.New(slog.DiscardHandler),
		Upstream: func(string) (protocol.Upstream, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.looks++
			return c.upstream, c.refuse
		},
		Record: func(_ context.Context, resource string, b evidence.ImportBody) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.forget == nil {
				c.records = append(c.records, b)
			}
			return c.forget
		},
		Unread: func(string) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.complains++
		},
	})
	return c
}

// sql runs statements in the database, as its owner.
func (c *catalogued) sql(t *testing.T, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), c.url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	for _, text := range statements {
		if _, err := conn.Exec(t.Context(), text); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
}

func (c *catalogued) set(refuse, forget error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refuse, c.forget = refuse, forget
}

func (c *catalogued) counts() (looks, complains int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.looks, c.complains
}

func (c *catalogued) recorded() []evidence.ImportBody {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.records)
}

// objects are those that reading open.v touches, as it is understood now; nil
// when it is opaque.
func (c *catalogued) objects() (objects []string) {
	un := c.Understand("db").Understand(context.Background(), "select * from open.v", "simple", sql.PathEnv("public", "x"))
	for _, check := range un.Shape.Checks {
		if check.Action == sql.Prefix+"opaque" {
			return nil
		}
		objects = append(objects, check.Object)
	}
	return objects
}

// eventually waits until reading open.v touches these.
func (c *catalogued) eventually(t *testing.T, want ...string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		got := c.objects()
		if slices.Equal(got, want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("open.v is %v, want %v", got, want)
		}
	}
}

// What others do to a database is noticed, and each catalogue is on record once.
func TestCatalogueFollowsTheDatabase(t *testing.T) {
	s := startServer(t)
	c := newCatalogued(t, s, "")
	c.sql(t, "create schema open", "create schema hidden", "create table open.t (n int)", "create table hidden.t (n int)",
		"create view open.v as select * from open.t")
	c.eventually(t, "open.t", "open.v")
	c.sql(t, "create or replace view open.v as select * from hidden.t")
	c.eventually(t, "hidden.t", "open.v")
	records := c.recorded()
	for i, b := range records {
		sum := sha256.Sum256(b.Data)
		if b.Kind != "postgres.catalogue" || b.Source != "db" || b.Query == "" || b.Rows == 0 || b.Digest != hex.EncodeToString(sum[:]) {
			t.Errorf("record %d: %s of %s, %d rows, digest %s", i, b.Kind, b.Source, b.Rows, b.Digest)
		}
		if i > 0 && b.Digest == records[i-1].Digest {
			t.Errorf("record %d is that of before", i)
		}
	}
	if last := string(records[len(records)-1].Data); !strings.Contains(last, `"hidden"`) || !json.Valid([]byte(last)) {
		t.Errorf("the last record lacks what is in force: %s", last)
	}
	// What changes no name changes no record.
	c.sql(t, "alter table open.t set (fillfactor = 90)", "vacuum open.t")
	for looks, _ := c.counts(); ; time.Sleep(10 * time.Millisecond) {
		c.eventually(t, "hidden.t", "open.v")
		if now, _ := c.counts(); now >= looks+3 {
			break
		}
	}
	if now := len(c.recorded()); now != len(records) {
		t.Errorf("%d records more of a catalogue that is the same", now-len(records))
	}
}

// Until a catalogue has been read and is on record, and once it could not be
// read for a while, every text is opaque.
func TestNoCatalogueNoUnderstanding(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	c := newCatalogued(t, s, "")
	c.sql(t, "create schema open", "create view open.v as select 1")
	c.set(errors.New("no way there"), nil)
	if got := c.objects(); got != nil {
		t.Errorf("without a catalogue open.v is %v", got)
	}
	c.set(nil, errors.New("disk full"))
	for looks, _ := c.counts(); ; time.Sleep(10 * time.Millisecond) {
		if got := c.objects(); got != nil {
			t.Fatalf("by a catalogue that isn't on record open.v is %v", got)
		}
		if now, _ := c.counts(); now > looks {
			break
		}
	}
	c.set(nil, nil)
	c.eventually(t, "open.v")
	if _, complains := c.counts(); complains != 1 {
		t.Errorf("told %d times of the first outage", complains)
	}
	c.set(errors.New("no way there"), nil)
	c.eventually(t)
	c.set(nil, nil)
	c.eventually(t, "open.v")
	if _, complains := c.counts(); complains != 2 {
		t.Errorf("told %d times of two outages", complains)
	}
}

// A login that was granted nothing reads the same catalogue as the owner, of a
// database of ten thousand relations.
func TestCatalogueOfManyRelationsByALoginWithoutRights(t *testing.T) {
	if testing.Short() {
		t.Skip("slow")
	}
	s := startServer(t)
	s.sql(t, `do $$ begin create role guest login password 'guest'; exception when duplicate_object then null; end $$`)
	c := newCatalogued(t, s, "guest")
	texts := []string{"create schema open", "create schema hidden", "create table hidden.t (n int)", "create view open.v as select * from hidden.t",
		"set synchronous_commit = off"}
	for i := range 20 { // a transaction has only so many locks
		texts = append(texts, fmt.Sprintf(`do $$ begin for i in %d..%d loop
			execute format('create table open.t%%s (a int, b int, c int, d int, e int)', i); end loop; end $$`, 500*i, 500*i+499))
	}
	c.sql(t, texts...)
	c.eventually(t, "hidden.t", "open.v")
	records := c.recorded()
	b := records[len(records)-1]
	catalogue, err := sql.ParseCatalogue(b.Data)
	if err != nil {
		t.Fatal(err)
	}
	columns := 0
	for _, r := range catalogue.Relations {
		columns += len(r.Columns)
	}
	if columns < 50_000 || b.Rows < 10_000 {
		t.Errorf("%d rows, %d columns", b.Rows, columns)
	}
	t.Logf("a record of %d bytes", len(b.Data))
}
