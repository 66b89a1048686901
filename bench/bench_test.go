package main

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/verify"
)

func TestPgbenchOutput(t *testing.T) {
	const ok = `number of transactions actually processed: 1234
number of failed transactions: 0 (0.000%)
latency average = 0.405 ms
tps = 2469.135802 (without initial connection time)
`
	v, err := output(ok).tps()
	if err != nil || v != 2469.135802 {
		t.Errorf("got %v, %v", v, err)
	}
	if _, err := output(strings.Replace(ok, "failed transactions: 0", "failed transactions: 7", 1)).tps(); err == nil {
		t.Error("a run with failed transactions passes for a measurement")
	}
	if _, err := output("pgbench (15)").tps(); err == nil {
		t.Error("no figure passes for a measurement")
	}
}

func TestQuantile(t *testing.T) {
	for _, c := range []struct {
		sample []float64
		q      float64
		want   float64
	}{
		{[]float64{3}, 0.99, 3},
		{[]float64{1, 2, 3, 4}, 0.5, 2.5},
		{[]float64{1, 2, 3}, 0.5, 2},
		{[]float64{0, 100}, 0.99, 99},
	} {
		if got := quantile(c.sample, c.q); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("quantile(%v, %v) = %v, want %v", c.sample, c.q, got, c.want)
		}
	}
	if !math.IsNaN(median(nil)) {
		t.Error("an empty sample has a median")
	}
}

func TestReportComparesRoundByRound(t *testing.T) {
	direct, relay := &target{name: "direct"}, &target{name: "relay"}
	exhibit := &target{name: "exhibit (power)", gateway: &gateway{}}
	r := newReport(options{})
	table := r.table(&suite{name: "PostgreSQL", peer: "relay"}, &bed{targets: []*target{direct, relay, exhibit}})
	w := workload{name: "select"}
	// The machine is ten times slower in the second round, for all.
	for _, tps := range []float64{1000, 100, 1000} {
		for of, share := range map[*target]float64{direct: 1, relay: 0.5, exhibit: 0.25} {
			table.add(w, of, []figure{{unit: "commands/s", more: true, value: tps * share}}, nil)
		}
	}
	l := workload{name: "latency"}
	for of, p50 := range map[*target]float64{direct: 100, relay: 130, exhibit: 150} {
		table.add(l, of, []figure{{name: "p50", unit: "µs", value: p50}}, nil)
	}
	table.add(l, relay, nil, io.ErrUnexpectedEOF)

	got := r.text()
	for _, want := range []string{
		"1000 commands/s  0.50", "100 µs           +30 µs", "failed: relay, latency: unexpected EOF", "exhibit (power) as a share of relay: select 0.50.",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	before := "# Benchmarks\n\n## PostgreSQL\n\nold\n\n## HTTP\n\nkept\n\n## Evidence\n\nonce\n"
	md := r.markdown(before)
	if !strings.Contains(md, "| select | 1000 commands/s | 0.50 | 0.25 |\n") || strings.Contains(md, "old") ||
		!strings.Contains(md, "\n## HTTP\n\nkept\n") || strings.Count(md, "## Evidence") != 1 || r.markdown(md) != md {
		t.Errorf("markdown:\n%s", md)
	}
}

func TestRelayPassesBytesBothWays(t *testing.T) {
	var lc net.ListenConfig
	echo, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		c, err := echo.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.Copy(c, c) // until the client is done
	}()

	agent, client := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- relay(t.Context(), agent, echo.Addr().String()) }()
	if _, err := client.Write([]byte("select 1")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 8)
	if _, err := io.ReadFull(client, got); err != nil || string(got) != "select 1" {
		t.Fatalf("read %q, %v", got, err)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestWrkOutput(t *testing.T) {
	const ok = `Running 1s test @ http://127.0.0.1:1/files/small
  1 threads and 1 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    33.35us   10.01us 480.00us   90.91%
    Req/Sec    28.91k     1.60k   30.11k    81.82%
  Latency Distribution
     50%   32.00us
     75%   34.00us
     90%   40.00us
     99%    1.25ms
  31650 requests in 1.10s, 39.33MB read
Requests/sec:  28773.61
Transfer/sec:     35.76MB
`
	r, err := readWrk(ok)
	if want := (tally{rate: 28773.61, requests: 31650, p50: 32, p99: 1250}); err != nil || r != want {
		t.Errorf("got %+v, %v", r, err)
	}
	for _, trouble := range []string{"  Non-2xx or 3xx responses: 3\n", "  Socket errors: connect 0, read 1, write 0, timeout 0\n"} {
		if _, err := readWrk(strings.Replace(ok, "Requests/sec", trouble+"Requests/sec", 1)); err == nil {
			t.Errorf("passes for a measurement:%s", trouble)
		}
	}
	if _, err := readWrk("unable to connect"); err == nil {
		t.Error("no figure passes for a measurement")
	}
}

func TestH2loadOutput(t *testing.T) {
	const ok = `finished in 1.00s, 20596.00 req/s, 23.21MB/s
requests: 20596 total, 20628 started, 20596 done, 20596 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 20628 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 23.21MB (24336452) total
`
	r, err := readH2load(ok)
	if want := (tally{rate: 20596, requests: 20596}); err != nil || r != want {
		t.Errorf("got %+v, %v", r, err)
	}
	for good, bad := range map[string]string{"0 5xx": "7 5xx", "0 failed": "7 failed", "20596 succeeded": "20589 succeeded", "0 timeout": "1 timeout"} {
		if _, err := readH2load(strings.Replace(ok, good, bad, 1)); err == nil {
			t.Errorf("%s passes for a measurement", bad)
		}
	}
}

func TestReverseProxyPassesRequestsOn(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Method, " ", r.URL.Path)
	}))
	defer up.Close()
	w := httptest.NewRecorder()
	reverseProxy(up.Listener.Addr().String()).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/files/small", nil))
	if w.Code != http.StatusOK || w.Body.String() != "GET /files/small" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// What the table of packs measures passes the verifier.
func TestAPackOfALogIsMadeAndPasses(t *testing.T) {
	dir := t.TempDir()
	log, pack, trust := filepath.Join(dir, "log"), filepath.Join(dir, "pack.zip"), filepath.Join(dir, "trust.json")
	if err := runLog(log + "=2000"); err != nil {
		t.Fatal(err)
	}
	if err := runPack(t.Context(), log+"="+pack); err != nil {
		t.Fatal(err)
	}
	b, err := verify.NewTrustFile(packtest.New().VerifierKey()).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(trust, b, 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	if code := verify.Main("exhibit-verify", []string{pack, "--trust", trust, "--json"}, &stdout, &stderr); code != 0 {
		t.Fatalf("exit code %d\n%s", code, &stderr)
	}
	r, err := readReport(stdout.String())
	if err != nil || r.Pack.Range.Records < 4000 {
		t.Errorf("%+v, %v", r.Pack.Range, err)
	}
	for _, spec := range []string{log, log + "=many"} {
		if err := runLog(spec); err == nil {
			t.Errorf("%q passes for a log's length", spec)
		}
	}
}
