package postgres

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/sql"
)

// Databases knows what texts ask of each resource: it keeps an Understander by
// each one's catalogue, reads the catalogue with the gateway's own credential
// before the first session, after commands that changed it and every minute
// while sessions come, and has each version recorded before texts are
// understood by it.
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
	Logger *slog.Logger
}

type database struct {
	understand *sql.Understander
	first      sync.WaitGroup // for the first attempt to read the catalogue
	stale      chan struct{}  // holds one when the catalogue should be read again

	mu   sync.Mutex
	read time.Time // when the catalogue was last read
}

const (
	catalogueAge     = time.Minute      // of a catalogue that a new session still is understood by without a look
	catalogueTimeout = 30 * time.Second // for reading one
	firstCatalogue   = 5 * time.Second  // that a session waits for one
)

// NewDatabases returns Databases that know none yet.
func NewDatabases(c DatabasesConfig) *Databases {
	return &Databases{cfg: c, known: make(map[string]*database)}
}

// Understand is the Config.Understand of a Protocol. A session that comes
// before the catalogue can be read is understood without: then only the names
// that every server has are known, and all others count as what they may be.
func (d *Databases) Understand(resource string) Understander {
	db := d.database(resource)
	first := make(chan struct{})
	go func() { db.first.Wait(); close(first) }()
	select {
	case <-first:
	case <-time.After(firstCatalogue):
	}
	db.mu.Lock()
	old := time.Since(db.read) > catalogueAge
	db.mu.Unlock()
	if old {
		db.refresh()
	}
	return db.understand
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

func (d *Databases) database(resource string) *database {
	d.mu.Lock()
	defer d.mu.Unlock()
	db := d.known[resource]
	if db == nil {
		db = &database{understand: sql.New(d.cfg.Grammar, nil), stale: make(chan struct{}, 1)}
		d.known[resource] = db
		db.first.Add(1)
		go d.follow(resource, db)
	}
	return db
}

func (db *database) refresh() {
	select {
	case db.stale <- struct{}{}:
	default: // it will be read again anyway
	}
}

// follow reads a database's catalogue whenever it may have changed. It ends
// with the process: a gateway has few resources.
func (d *Databases) follow(resource string, db *database) {
	d.load(resource, db)
	db.first.Done()
	for range db.stale {
		d.load(resource, db)
	}
}

func (d *Databases) load(resource string, db *database) {
	ctx, cancel := context.WithTimeout(context.Background(), catalogueTimeout)
	defer cancel()
	c, err := d.readCatalogue(ctx, resource)
	if err == nil {
		if old := db.understand.Catalogue(); old == nil || old.Digest() != c.Digest() {
			err = d.cfg.Record(ctx, resource, c.Import(resource))
			if err == nil {
				db.understand.SetCatalogue(c)
			}
		}
	}
	if err != nil {
		d.cfg.Logger.Warn("the catalogue cannot be read; statements are understood by an older one, or none", "resource", resource, "cause", err)
	}
	db.mu.Lock()
	db.read = time.Now()
	db.mu.Unlock()
}

func (d *Databases) readCatalogue(ctx context.Context, resource string) (*sql.Catalogue, error) {
	up, err := d.cfg.Upstream(resource)
	if err != nil {
		return nil, err
	}
	inner, err := config(up, map[string]string{"application_name": "exhibit catalogue"})
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
	defer conn.Close(context.WithoutCancel(ctx))
	return sql.Load(ctx, conn)
}
