package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/sql"
)

// Databases knows what texts ask of each resource: it keeps an Understander by
// each one's catalogue, and has each version recorded before texts are
// understood by it.
//
// A catalogue is a snapshot. While texts come it is compared with the
// database, with the gateway's own credential: when a session begins, after
// commands that change it, and every Look, since others may change it too. One
// that could not be compared for Lapse counts no more: until it can be, texts
// are opaque.
type Databases struct {
	cfg DatabasesConfig

	mu    sync.Mutex
	known map[string]*database
}

// DatabasesConfig is what Databases need.
type DatabasesConfig struct {
	Grammar  sql.Asker
	Upstream func(resource string) (protocol.Upstream, error)
	// Record records a catalogue; what isn't recorded isn't used.
	Record func(ctx context.Context, resource string, b evidence.ImportBody) error
	// Own records a connection that is the gateway's own; it may be nil. What
	// isn't recorded isn't used.
	Own func(ctx context.Context, resource string, b evidence.OwnUpstreamBody) error
	// Unread is called when a catalogue can't be read any more, once until it
	// can be again. It must not block. It may be nil.
	Unread func(resource string)
	Look   time.Duration // between two looks at a database; default 10 s
	Lapse  time.Duration // after which a catalogue that can't be compared is not used; default 1 min
	Logger *slog.Logger
}

// database understands the texts of one resource.
type database struct {
	*sql.Understander
	look, lapse time.Duration
	stale       chan struct{} // holds one when the database should be looked at

	confirmed atomic.Int64 // when the last look that succeeded began, on clock

	mu     sync.Mutex
	looked chan struct{} // closed at the end of the next look

	// Of the goroutine that looks.
	fingerprint string
	unread      bool
}

const (
	catalogueTimeout = 30 * time.Second // for a look
	catalogueWait    = 5 * time.Second  // that a text, or a session, waits for one
	cataloguePause   = time.Second      // after a look that failed
)

// clock is a time that nobody steps.
func clock() int64 { return int64(time.Since(clockStart)) }

var clockStart = time.Now().Add(-time.Hour) // so that zero is long ago

// NewDatabases returns Databases that know none yet.
func NewDatabases(c DatabasesConfig) *Databases {
	if c.Unread == nil {
		c.Unread = func(string) {}
	}
	c.Look, c.Lapse = cmp.Or(c.Look, 10*time.Second), cmp.Or(c.Lapse, time.Minute)
	return &Databases{cfg: c, known: make(map[string]*database)}
}

// Understand is the Config.Understand of a Protocol. It has the database looked
// at, and waits a while for its first catalogue.
func (d *Databases) Understand(resource string) Understander {
	db := d.database(resource)
	db.refresh()
	if db.lapsed() {
		db.await(context.Background())
	}
	return db
}

// Changed is the Config.Changed of a Protocol.
func (d *Databases) Changed(resource string) { d.database(resource).refresh() }

// Explain says how a statement would be understood, by the server's default
// search_path.
func (d *Databases) Explain(ctx context.Context, resource, statement string) (*evidence.Shape, error) {
	up, err := d.cfg.Upstream(resource)
	if err != nil {
		return nil, err
	}
	return d.Understand(resource).Understand(ctx, statement, pathSimple, sql.PathEnv(`"$user", public`, up.User)).Shape, nil
}

// Understand implements Understander.
func (db *database) Understand(ctx context.Context, text, path string, env sql.Env) *sql.Understanding {
	if db.since() > db.look {
		db.refresh()
		if db.lapsed() && !db.await(ctx) {
			return opaque(path)
		}
	}
	return db.Understander.Understand(ctx, text, path, env)
}

func (db *database) since() time.Duration { return time.Duration(clock() - db.confirmed.Load()) }

// lapsed reports whether the catalogue is too old to be used.
func (db *database) lapsed() bool { return db.since() > db.lapse }

// await waits for a look, and reports whether the catalogue may be used.
func (db *database) await(ctx context.Context) bool {
	db.mu.Lock()
	looked := db.looked
	db.mu.Unlock()
	if db.lapsed() { // it may have been looked at just before
		select {
		case <-looked:
		case <-time.After(catalogueWait):
		case <-ctx.Done():
		}
	}
	return !db.lapsed()
}

func (d *Databases) database(resource string) *database {
	d.mu.Lock()
	defer d.mu.Unlock()
	db := d.known[resource]
	if db == nil {
		db = &database{
			Understander: sql.New(d.cfg.Grammar, nil), look: d.cfg.Look, lapse: d.cfg.Lapse,
			stale: make(chan struct{}, 1), looked: make(chan struct{}),
		}
		d.known[resource] = db
		go d.follow(resource, db)
	}
	return db
}

func (db *database) refresh() {
	select {
	case db.stale <- struct{}{}:
	default: // it will be looked at anyway
	}
}

// follow looks at a database whenever it may have changed. It ends with the
// process: a gateway has few resources.
func (d *Databases) follow(resource string, db *database) {
	for range db.stale {
		began := time.Now()
		err := d.compare(resource, db)
		switch {
		case err == nil && db.unread:
			d.cfg.Logger.Info("the catalogue can be read again", "resource", resource)
		case err != nil && !db.unread:
			d.cfg.Logger.Warn("the catalogue cannot be read; once the one in use has lapsed, every statement is opaque",
				"resource", resource, "lapses", d.cfg.Lapse, "cause", err)
			d.cfg.Unread(resource)
		}
		db.unread = err != nil
		db.mu.Lock()
		close(db.looked)
		db.looked = make(chan struct{})
		db.mu.Unlock()
		// A database is being looked at for half of the time at most.
		pause := time.Since(began)
		if err != nil {
			pause = max(pause, cataloguePause)
		}
		time.Sleep(pause)
	}
}

// compare looks whether a database still is what its catalogue says, and puts a
// new one in force when it isn't.
func (d *Databases) compare(resource string, db *database) error {
	began := clock()
	ctx, cancel := context.WithTimeout(context.Background(), catalogueTimeout)
	defer cancel()
	conn, err := d.connect(ctx, resource, "catalogue")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	// The fingerprint comes first: what changes in between is seen next time.
	fingerprint, err := sql.Fingerprint(ctx, conn)
	if err != nil {
		return err
	}
	if fingerprint != db.fingerprint {
		c, err := sql.Load(ctx, conn)
		if err != nil {
			return err
		}
		if old := db.Catalogue(); old == nil || old.Digest() != c.Digest() {
			if err := d.cfg.Record(ctx, resource, c.Import(resource)); err != nil {
				return fmt.Errorf("recording the catalogue: %w", err)
			}
			db.SetCatalogue(c)
		}
		db.fingerprint = fingerprint
	}
	db.confirmed.Store(began)
	return nil
}

// connect makes a connection of the gateway's own, for a purpose, and has it
// recorded: the server's log shows it like those of agents.
func (d *Databases) connect(ctx context.Context, resource, purpose string) (*pgx.Conn, error) {
	up, err := d.cfg.Upstream(resource)
	if err != nil {
		return nil, err
	}
	inner, err := config(up, map[string]string{"application_name": "exhibit " + purpose})
	if err != nil {
		return nil, err
	}
	cfg, err := pgx.ParseConfig("host=127.0.0.1 port=5432 user=none password=none dbname=none sslmode=disable target_session_attrs=any")
	if err != nil {
		return nil, err
	}
	cfg.Config = *inner
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connecting to the upstream: %w", err)
	}
	if err := recordOwn(ctx, d.cfg.Own, resource, purpose, conn.PgConn()); err != nil {
		return nil, errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
	}
	return conn, nil
}

func recordOwn(ctx context.Context, own func(context.Context, string, evidence.OwnUpstreamBody) error, resource, purpose string, pg *pgconn.PgConn) error {
	if own == nil {
		return nil
	}
	local, remote := pg.Conn().LocalAddr().String(), pg.Conn().RemoteAddr().String()
	if err := own(ctx, resource, evidence.OwnUpstreamBody{Purpose: purpose, Local: local, Remote: remote, PID: pg.PID()}); err != nil {
		return fmt.Errorf("recording a connection of the gateway's own: %w", err)
	}
	return nil
}

// countersQuery asks a server of version 14 or later how many sessions each of
// its databases has had.
const countersQuery = `SELECT d.datname, d.sessions, pg_catalog.date_part('epoch', d.stats_reset), ` +
	`pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time()), pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) ` +
	`FROM pg_catalog.pg_stat_database d WHERE d.datname IS NOT NULL ORDER BY d.datname`

// Counters reads how many sessions the server of a resource has counted, with
// the query and the time by the server's clock.
func (d *Databases) Counters(ctx context.Context, resource string) (list []evidence.CounterRow, query string, at int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, catalogueTimeout)
	defer cancel()
	conn, err := d.connect(ctx, resource, "counters")
	if err != nil {
		return nil, "", 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, countersQuery)
	if err != nil {
		return nil, "", 0, fmt.Errorf("reading counters: %w", err)
	}
	var c evidence.CounterRow
	var reset *float64
	var started, now float64
	micros := func(seconds float64) int64 { return int64(math.Round(seconds * 1e6)) }
	_, err = pgx.ForEachRow(rows, []any{&c.Database, &c.Sessions, &reset, &started, &now}, func() error {
		c.Reset, c.Started, at = 0, micros(started), micros(now)
		if reset != nil {
			c.Reset = micros(*reset)
		}
		list = append(list, c)
		return nil
	})
	if err != nil {
		return nil, "", 0, fmt.Errorf("reading counters: %w", err)
	}
	return list, countersQuery, at, nil
}
