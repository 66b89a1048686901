package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/pgserver"
	"github.com/exhibit-gateway/exhibit/verify"
)

// gateway is one running Exhibit, driven as its operator would: by the command
// line.
type gateway struct {
	dir     string // of configuration, keys and data
	exhibit string // binary
	began   time.Time
}

func (g *gateway) file(name string) string { return filepath.Join(g.dir, name) }

// cli runs a verb of the gateway and returns what it printed.
func (g *gateway) cli(ctx context.Context, args ...string) (string, error) {
	return command(ctx, g.exhibit, append([]string{"--config", g.file("exhibit.yaml")}, args...)...)
}

// command runs a program and returns what it printed. Its complaint is in the
// error.
func command(ctx context.Context, name string, args ...string) (string, error) {
	u, err := spent(ctx, name, args...)
	return strings.TrimSpace(u.output), err
}

// resource is what a gateway leads to, and how many sessions it must have room
// for.
type resource struct {
	protocol string
	text     string            // lines of its configuration besides name, protocol and durability
	files    map[string]string // that those name
	sessions int
}

// startGateways starts an Exhibit for each durability of reads. It returns those
// that it started even when it fails.
func startGateways(ctx context.Context, dir string, o options, r resource) (targets []*target, err error) {
	exhibit, err := filepath.Abs(o.exhibit)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(exhibit); errors.Is(err, os.ErrNotExist) {
		progress("%s isn't built, leaving Exhibit out", o.exhibit)
		return nil, nil
	}
	for _, durability := range []string{"process", "power"} {
		t, err := startExhibit(ctx, dir, exhibit, durability, r)
		if err != nil {
			return targets, fmt.Errorf("exhibit (%s): %w", durability, err)
		}
		targets = append(targets, t)
	}
	return targets, nil
}

// startExhibit sets up a gateway in a folder of its own, with one agent that
// may write, and starts it.
func startExhibit(ctx context.Context, dir, exhibit, durability string, r resource) (*target, error) {
	g := &gateway{dir: filepath.Join(dir, "exhibit-"+durability), exhibit: exhibit, began: time.Now().UTC()}
	addr, err := pgserver.FreeAddr()
	if err != nil {
		return nil, err
	}
	if err := g.init(ctx, addr, durability, r); err != nil {
		return nil, err
	}
	proc, err := start(g.dir, "serve", exhibit, "serve", "--config", g.file("exhibit.yaml"))
	if err != nil {
		return nil, err
	}
	t := &target{name: "exhibit (" + durability + ")", conn: conn{addr: addr, user: benchUser}, proc: proc, gateway: g}
	err = proc.ready(ctx, "tcp", addr)
	if err == nil {
		err = proc.ready(ctx, "unix", g.file("data/admin.sock"))
	}
	if err == nil {
		err = g.admit(ctx)
	}
	if err == nil {
		t.version, err = g.cli(ctx, "version")
	}
	if err != nil {
		t.stop()
		return nil, fmt.Errorf("%w\n%s", err, proc.tail())
	}
	return t, nil
}

// init makes keys and the example policies as an operator would, and a
// configuration of its own: no metrics, and room for all the sessions.
func (g *gateway) init(ctx context.Context, addr, durability string, r resource) error {
	origin := "bench.example/" + r.protocol + "/" + durability
	if _, err := command(ctx, g.exhibit, "init", g.dir, "--gateway", "bench", "--origin", origin); err != nil {
		return err
	}
	config := fmt.Sprintf(`gateway: bench
organisation: Benchmark
data: data
log: {origin: %[1]s}
people: [{id: bench@example.com, uids: [%[2]d]}]
metrics: {address: ""}
listeners: [{name: bench, protocol: %[3]s, address: %[4]q}]
resources:
  - name: %[5]s
    protocol: %[3]s
    durability: %[6]s
    %[7]s
policies: policies
limits: {sessions: %[8]d, sessions_per_agent: %[8]d}
`, origin, os.Getuid(), r.protocol, addr, database, durability, r.text, r.sessions)
	err := os.WriteFile(g.file("exhibit.yaml"), []byte(config), 0o600)
	for name, text := range r.files {
		err = errors.Join(err, os.WriteFile(g.file(name), []byte(text), 0o600))
	}
	return err
}

// admit registers the agent, its role and its key.
func (g *gateway) admit(ctx context.Context) error {
	for _, args := range [][]string{
		{"agent", "add", benchUser, "--purpose", "puts load on the gateway", "--owner", "bench@example.com"},
		{"grant", "add", "--agent", benchUser, "--role", "writer", "--resource", database, "--for", "24h"},
		{"enroll", benchUser, "--key", g.file("agent.key")},
	} {
		if _, err := g.cli(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// refresh gets a fresh token where the target wants one: they are short-lived.
func (t *target) refresh(ctx context.Context) (err error) {
	if t.gateway != nil {
		t.conn.password, err = t.gateway.cli(ctx, "token", "--key", t.gateway.file("agent.key"), "--ticket", "BENCH-1")
	}
	return err
}

// evidence counts what a fixed number of commands leaves behind, and times an
// export and the check of all that the gateway recorded.
func (g *gateway) evidence(ctx context.Context, p plan, t *target, commands func(context.Context, *target, int) (int, error)) (e evidence, err error) {
	before, err := g.settled(ctx)
	if err != nil {
		return e, err
	}
	if err := t.refresh(ctx); err != nil {
		return e, err
	}
	if e.Commands, err = commands(ctx, t, p.evidence); err != nil {
		return e, err
	}
	after, err := g.settled(ctx)
	if err != nil {
		return e, err
	}
	e.Stored = make(map[string]int64)
	var total int64
	for folder, size := range after {
		e.Stored[folder] = size - before[folder]
		if folder != partialTiles {
			total += e.Stored[folder]
		}
	}
	e.BytesPerCommand = float64(total) / float64(e.Commands)
	return e, g.prove(ctx, &e)
}

// prove makes a pack of everything and checks it.
func (g *gateway) prove(ctx context.Context, e *evidence) error {
	pack := g.file("pack.zip")
	begin := time.Now()
	_, err := g.cli(ctx, "pack", "create", "--from", g.began.Add(-time.Minute).Format(time.RFC3339),
		"--to", time.Now().UTC().Add(time.Minute).Format(time.RFC3339), "--purpose", "benchmark", "-o", pack)
	if err != nil {
		return err
	}
	e.PackSeconds = time.Since(begin).Seconds()

	begin = time.Now()
	out, err := command(ctx, filepath.Join(filepath.Dir(g.exhibit), "exhibit-verify"), pack, "--trust", g.file("trust.json"), "--json")
	e.VerifySeconds = time.Since(begin).Seconds()
	r, readErr := readReport(out)
	if err := errors.Join(readErr, err); err != nil {
		return err
	}
	e.Records = int(r.Pack.Range.Records)
	e.RecordsPerSecond = float64(e.Records) / e.VerifySeconds
	return nil
}

// readReport reads the verifier's report: one with a check that failed is an
// error.
func readReport(text string) (*verify.Report, error) {
	r := new(verify.Report)
	if err := json.Unmarshal([]byte(text), r); err != nil {
		return r, err
	}
	var err error
	for _, c := range r.Failed() {
		err = errors.Join(err, fmt.Errorf("%s: %s: %+v", c.ID, c.Title, c.Exceptions))
	}
	return r, err
}

// settled waits until everything is sealed, which shows in sizes that stay as
// they are for longer than a block waits, and returns them by folder. The
// journal isn't among them: it is a buffer.
func (g *gateway) settled(ctx context.Context) (map[string]int64, error) {
	var last int64 = -1
	for range 60 {
		sizes, err := g.sizes()
		if err != nil {
			return nil, err
		}
		var total int64
		for _, size := range sizes {
			total += size
		}
		if total == last {
			return sizes, nil
		}
		last = total
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(3 * time.Second):
		}
	}
	return nil, errors.New("the gateway is still sealing after three minutes")
}

// partialTiles are the log's tiles and entry bundles that aren't full yet (C2SP
// tlog-tiles). Each block leaves one behind, at most 255 of a kind, and all go
// once the full one is there: they are shown, and count for no command.
const partialTiles = "partial tiles"

func (g *gateway) sizes() (map[string]int64, error) {
	data := g.file("data")
	sizes := make(map[string]int64)
	err := filepath.WalkDir(data, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a temporary file that has got its name
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		rel, _ := filepath.Rel(data, path) // both are absolute
		folder, _, _ := strings.Cut(rel, string(filepath.Separator))
		if strings.Contains(filepath.ToSlash(rel), ".p/") {
			folder = partialTiles
		}
		if err == nil && folder != "journal" {
			sizes[folder] += info.Size()
		}
		return err
	})
	return sizes, err
}
