// Command bench measures Exhibit beside its peers: a PostgreSQL server reached
// directly, through haproxy (TCP), through pgbouncer (session mode), through a
// bare Go relay that looks at nothing, and through Exhibit with either
// durability.
//
// It starts all of them on free loopback ports in a temporary folder, lets the
// same load go through each in turn (A B C A B C), and puts out ratios: the
// absolute figures are this machine's, the ratios travel. A table goes to
// standard output, JSON to -out, and a full run writes docs/benchmarks.md. On
// its way out it ends the processes that it started, and no other.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"
)

func main() {
	var o options
	relay := flag.String("relay", "", "be the relay, and nothing else: `listen=upstream`")
	flag.BoolVar(&o.quick, "quick", false, "fewer, shorter rounds: under three minutes, for a first impression")
	flag.StringVar(&o.out, "out", "", "write the figures as JSON to this `file`")
	flag.StringVar(&o.doc, "doc", "docs/benchmarks.md", "`file` that a full run writes the tables to")
	flag.StringVar(&o.exhibit, "exhibit", "bin/exhibit", "the gateway's `binary`; exhibit-verify lies beside it")
	o.only = regexp.MustCompile("")
	flag.TextVar(o.only, "only", o.only, "run the workloads whose name matches this `regexp`, and write no document")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if *relay != "" {
		err = runRelay(ctx, *relay)
	} else {
		err = run(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		stop()
		os.Exit(1)
	}
}

type options struct {
	quick   bool
	out     string
	doc     string
	exhibit string
	only    *regexp.Regexp
}

// partial runs say little, and nothing to a document.
func (o options) partial() bool { return o.quick || o.only.String() != "" }

// plan is how much of everything.
type plan struct {
	rounds    int
	seconds   int // a pgbench run
	clients   []int
	scale     int
	queries   int // of the latency loop, a round
	bulkMiB   int
	idle      int // sessions
	evidence  int // commands, to count stored bytes by
	churn     int // clients that connect for each transaction
	writers   int
	bulkRound int
}

func (o options) plan() plan {
	if o.quick {
		return plan{rounds: 2, seconds: 1, clients: []int{1, 16}, scale: 4, queries: 1000, bulkMiB: 128,
			idle: 200, evidence: 20_000, churn: 4, writers: 4, bulkRound: 1}
	}
	return plan{rounds: 5, seconds: 3, clients: []int{1, 4, 16, 64}, scale: 16, queries: 5000, bulkMiB: 1024,
		idle: 1000, evidence: 200_000, churn: 4, writers: 16, bulkRound: 3}
}

func run(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "exhibit-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	// The server and pgbouncer run as another user when we are root.
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}

	p := o.plan()
	started := time.Now()
	progress("starting PostgreSQL, scale %d", p.scale)
	server, err := startServer(ctx, dir, p)
	if err != nil {
		return err
	}
	defer server.stop()

	targets, err := startTargets(ctx, dir, server, o)
	defer func() {
		for _, t := range targets {
			t.stop()
		}
	}()
	if err != nil {
		return err
	}

	r := newReport(o, "PostgreSQL "+server.Version, targets)
	if err := measure(ctx, o, server, targets, r); err != nil {
		return err
	}
	r.Took = time.Since(started).Round(time.Second).String()
	return publish(o, r)
}

// measure runs every workload on every target. A target that can't do a
// workload is a finding of the report; only the end of ctx ends the run.
func measure(ctx context.Context, o options, server *server, targets []*target, r *report) error {
	p := o.plan()
	for _, w := range workloads(p) {
		if !o.only.MatchString(w.Name) {
			continue
		}
		progress("%s", w.Name)
		for range w.rounds {
			for _, t := range targets {
				v, err := once(ctx, w, t, server)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				r.add(w, t, v, err)
			}
		}
	}
	for _, t := range targets {
		if t.gateway == nil || !o.only.MatchString("evidence") {
			continue
		}
		progress("stored evidence and verification, %s", t.name)
		e, err := t.gateway.evidence(ctx, p, t)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.addEvidence(t, e, err)
	}
	return nil
}

// once puts one round of a workload through a target.
func once(ctx context.Context, w workload, t *target, s *server) (values, error) {
	if err := t.refresh(ctx); err != nil {
		return nil, err
	}
	v, err := w.run(ctx, t)
	if err != nil && t.gateway != nil {
		err = fmt.Errorf("%w\n%s", err, t.proc.tail())
	}
	if err == nil && w.writes {
		err = s.settle(ctx)
	}
	return v, err
}

func publish(o options, r *report) error {
	fmt.Print(r.text())
	if o.out != "" {
		if err := r.writeJSON(o.out); err != nil {
			return err
		}
	}
	if !o.partial() {
		if err := os.WriteFile(o.doc, []byte(r.markdown()), 0o644); err != nil {
			return err
		}
	}
	if n := len(r.Failures); n > 0 {
		return fmt.Errorf("%d measurements failed, see above", n)
	}
	return nil
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}
