// Command bench measures Exhibit beside its peers: a server reached directly,
// through proxies of its protocol, through a bare proxy in Go, and through
// Exhibit with either durability. Each protocol is a suite: PostgreSQL (haproxy,
// pgbouncer, a relay that looks at nothing), HTTP (nginx, Caddy, the standard
// library's reverse proxy), MCP, Kubernetes (kubectl proxy). One more measures
// making and verifying packs of logs of several lengths.
//
// It starts all of them on free loopback ports in a temporary folder, lets the
// same load go through each in turn (A B C A B C), and puts out ratios: the
// absolute figures are this machine's, the ratios travel. Tables go to standard
// output, JSON to -out, and a full run writes docs/benchmarks.md. On its way out
// it ends the processes that it started, and no other.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"
)

func main() {
	var o options
	relay := flag.String("relay", "", "be the relay, and nothing else: `listen=upstream`")
	tool := flag.String("tool", "", "be the server of MCP, and nothing else: `listen=`")
	reverse := flag.String("reverse", "", "be the reverse proxy, and nothing else: `listen=upstream`")
	log := flag.String("log", "", "write the log of a benchmark, and nothing else: `folder=commands`")
	pack := flag.String("pack", "", "make a pack of such a log, and nothing else: `folder=file`")
	flag.BoolVar(&o.quick, "quick", false, "fewer, shorter rounds, for a first impression")
	flag.StringVar(&o.out, "out", "", "write the figures as JSON to this `file`")
	flag.StringVar(&o.doc, "doc", "docs/benchmarks.md", "`file` that a full run writes the tables to")
	flag.StringVar(&o.suite, "suite", "", "run this suite only, by its name; a document keeps the tables of the others")
	flag.StringVar(&o.exhibit, "exhibit", "bin/exhibit", "the gateway's `binary`; exhibit-verify lies beside it")
	flag.StringVar(&o.mcp, "mcp", "", "`folder` with the reference server of MCP; without it its table is left out")
	flag.StringVar(&o.caddy, "caddy", "", "Caddy's `binary`; without it Caddy is left out")
	o.only = regexp.MustCompile("")
	flag.TextVar(o.only, "only", o.only, "run the workloads whose name, like \"HTTP: GET, 1 client\", matches this `regexp`, and write no document")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch {
	case *relay != "":
		err = runRelay(ctx, *relay)
	case *reverse != "":
		err = runReverse(ctx, *reverse)
	case *tool != "":
		err = runTool(ctx, *tool)
	case *log != "":
		err = runLog(*log)
	case *pack != "":
		err = runPack(ctx, *pack)
	default:
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
	caddy   string
	mcp     string
	suite   string
	only    *regexp.Regexp
}

// partial runs say little, and nothing to a document.
func (o options) partial() bool { return o.quick || o.only.String() != "" }

// plan is how much of everything.
type plan struct {
	rounds     int
	seconds    int // a run of a load generator
	clients    []int
	requesters []int // clients of HTTP
	scale      int
	queries    int // of the latency loop, a round
	bulkMiB    int
	idle       int // sessions
	evidence   int // commands, to count stored bytes by
	churn      int // clients that connect for each transaction
	writers    int
	bulkRound  int
	packs      []int // commands of the logs that packs are made of
}

func (o options) plan() plan {
	if o.quick {
		return plan{rounds: 1, seconds: 1, clients: []int{1, 16}, requesters: []int{1, 16}, scale: 4, queries: 1000, bulkMiB: 128,
			idle: 200, evidence: 20_000, churn: 4, writers: 4, bulkRound: 1, packs: []int{10_000, 100_000}}
	}
	return plan{rounds: 5, seconds: 3, clients: []int{1, 4, 16, 64}, requesters: []int{1, 4, 16, 64, 256}, scale: 16, queries: 5000, bulkMiB: 1024,
		idle: 1000, evidence: 200_000, churn: 4, writers: 16, bulkRound: 3, packs: []int{100_000, 1_000_000, 10_000_000}}
}

func run(ctx context.Context, o options) (err error) {
	r := newReport(o)
	started := time.Now()
	for _, s := range suites() {
		if o.suite != "" && !strings.EqualFold(o.suite, s.name) || len(s.wanted(o)) == 0 && !s.wantsEvidence(o) {
			continue
		}
		if s.name == everythingSuite.name && o.mcp == "" {
			progress("no -mcp, leaving out %s", s.name)
			continue
		}
		if err := s.run(ctx, o, r); err != nil {
			return err
		}
	}
	r.Took = time.Since(started).Round(time.Second).String()
	return publish(o, r)
}

// run starts a suite's server and targets, measures them and ends them.
func (s *suite) run(ctx context.Context, o options, r *report) (err error) {
	dir, err := os.MkdirTemp("", "exhibit-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	// Some servers run as another user when we are root.
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	progress("starting what is compared for %s", s.name)
	b, err := s.start(ctx, dir, o)
	defer b.end()
	if err != nil {
		return err
	}
	t, began := r.table(s, b), time.Now()
	err = s.measure(ctx, o, b, t)
	t.Took = time.Since(began).Round(time.Second).String()
	return err
}

func publish(o options, r *report) error {
	fmt.Print(r.text())
	if o.out != "" {
		if err := r.writeJSON(o.out); err != nil {
			return err
		}
	}
	if !o.partial() {
		before, err := os.ReadFile(o.doc)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.WriteFile(o.doc, []byte(r.markdown(string(before))), 0o644); err != nil {
			return err
		}
	}
	if n := r.failures(); n > 0 {
		return fmt.Errorf("%d measurements failed, see above", n)
	}
	return nil
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}
