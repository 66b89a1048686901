package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/exhibit-gateway/exhibit/internal/pgserver"
)

// suite is the comparison of one protocol: one table of the report.
type suite struct {
	name   string
	peer   string // the target that is a bare proxy in Go; ratios to it are given, too
	method string // what is compared, in Markdown
	// workloads are what a plan has measured.
	workloads func(plan) []workload
	// start starts the server and all ways to it. What it started it returns even
	// when it fails.
	start func(ctx context.Context, dir string, o options) (*bed, error)
}

// suites are the tables, in the order of the report: a line for each.
func suites() []suite {
	return []suite{postgresSuite, httpSuite, mcpSuite, everythingSuite, kubernetesSuite, packsSuite}
}

// bed is what a suite has started.
type bed struct {
	server  string    // and its version
	targets []*target // the first is what the others are compared with
	// settle puts to rest what a workload left behind, so that nobody else's turn
	// pays for it. It may be nil.
	settle func(context.Context) error
	// commands has n commands done, the plain ones by which stored evidence is
	// counted, and returns how many it were.
	commands func(ctx context.Context, t *target, n int) (int, error)
	stop     func() // the server
}

func (b *bed) end() {
	for _, t := range b.targets {
		t.stop()
	}
	if b.stop != nil {
		b.stop()
	}
}

// target is one way to the server.
type target struct {
	name    string
	conn    conn
	http2   string   // address where it speaks HTTP/2 without TLS; "" is nowhere
	proc    *process // nil for direct
	version string
	gateway *gateway // nil for what keeps no evidence
	past    *target  // the way past all of them, where a load needs it

	log, verifier string // folder of a log, and the program that checks packs
}

// conn is how a client reaches the server.
type conn struct {
	addr     string
	user     string
	password string
	roots    *x509.CertPool // that its certificate is checked with; nil is no TLS
}

func (t *target) stop() {
	if t.proc != nil {
		t.proc.stop(syscall.SIGTERM)
	}
}

// listen starts a program that passes what comes in on addr on to the server.
func listen(ctx context.Context, dir, name string, c conn, argv ...string) (*target, error) {
	proc, err := start(dir, name, argv...)
	if err != nil {
		return nil, err
	}
	t := &target{name: name, conn: c, proc: proc}
	if err := proc.ready(ctx, "tcp", c.addr); err != nil {
		t.stop()
		return nil, err
	}
	return t, nil
}

// self starts this program in another role: flag is -relay or -reverse.
func self(ctx context.Context, dir, name, flag string, upstream conn) (*target, error) {
	bin, err := os.Executable()
	if err != nil {
		return nil, err
	}
	addr, err := pgserver.FreeAddr()
	if err != nil {
		return nil, err
	}
	c := upstream
	c.addr = addr
	return listen(ctx, dir, name, c, bin, flag, addr+"="+upstream.addr)
}

// workload is one load.
type workload struct {
	name   string
	rounds int
	run    func(context.Context, *target) ([]figure, error)
	writes bool // and leaves something to settle
}

// figure is what a run measured. A workload's main figure has no name.
type figure struct {
	name  string
	unit  string
	more  bool // is better; of less what stands on top of direct is shown
	value float64
}

// measure runs the suite's workloads on every target. A target that can't do a
// workload is a finding of the report; only the end of ctx ends the run.
func (s *suite) measure(ctx context.Context, o options, b *bed, r *table) error {
	p := o.plan()
	for _, w := range s.wanted(o) {
		progress("%s: %s", s.name, w.name)
		for range w.rounds {
			for _, t := range b.targets {
				v, err := once(ctx, w, t, b)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				r.add(w, t, v, err)
			}
		}
	}
	for _, t := range b.targets {
		if t.gateway == nil || !s.wantsEvidence(o) {
			continue
		}
		progress("%s: stored evidence and verification, %s", s.name, t.name)
		e, err := t.gateway.evidence(ctx, p, t, b.commands)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.addEvidence(t, e, err)
		if o.quick {
			break // the other one leaves as much behind
		}
	}
	return nil
}

// wanted are the workloads that were asked for.
func (s *suite) wanted(o options) []workload {
	return slices.DeleteFunc(s.workloads(o.plan()), func(w workload) bool { return !o.only.MatchString(s.name + ": " + w.name) })
}

func (s *suite) wantsEvidence(o options) bool { return o.only.MatchString(s.name + ": evidence") }

// once puts one round of a workload through a target.
func once(ctx context.Context, w workload, t *target, b *bed) ([]figure, error) {
	if err := t.refresh(ctx); err != nil {
		return nil, err
	}
	v, err := w.run(ctx, t)
	if err != nil && t.proc != nil {
		err = fmt.Errorf("%w\n%s", err, t.proc.tail())
	}
	if err == nil && w.writes && b.settle != nil {
		err = b.settle(ctx)
	}
	return v, err
}

// writeFiles writes configuration, by name below dir.
func writeFiles(dir string, files map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(files[name]), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
