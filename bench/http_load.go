package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Streams at once on each connection of HTTP/2.
const streams = 8

func httpWorkloads(p plan) (w []workload) {
	for _, clients := range p.requesters {
		w = append(w, workload{name: "GET, " + count(clients, "client"), rounds: p.rounds, run: wrk(clients, p.seconds, "")})
	}
	return append(w,
		workload{name: "POST of 1 KiB, " + count(p.writers, "client"), rounds: p.rounds, run: wrk(p.writers, p.seconds, postScript)},
		workload{name: fmt.Sprintf("GET, HTTP/2, %s with %d streams", count(p.writers, "client"), streams), rounds: p.rounds, run: h2load(p.writers, p.seconds)},
		workload{name: fmt.Sprintf("download of %d MiB", p.bulkMiB), rounds: p.bulkRound, run: download(p.bulkMiB)},
	)
}

// postScript makes wrk send a JSON text of 1 KiB.
const postScript = `wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"name":"' .. string.rep("x", 1013) .. '"}'
`

// fields are the arguments by which a load generator proves itself.
func (t *target) fields() []string {
	if t.gateway == nil {
		return nil
	}
	return []string{"-H", "Authorization: Bearer " + t.conn.password}
}

// tally is what a load generator counted.
type tally struct {
	rate     float64 // requests a second
	requests int
	p50, p99 float64 // µs; 0 where it doesn't say
}

// metered runs a load and adds what the proxy used for it.
func metered(t *target, load func() (tally, error)) ([]figure, error) {
	before, err := t.used()
	if err != nil {
		return nil, err
	}
	r, err := load()
	if err != nil {
		return nil, err
	}
	after, err := t.used()
	if err != nil {
		return nil, err
	}
	figures := []figure{{unit: "requests/s", more: true, value: r.rate}}
	if r.p50 > 0 {
		figures = append(figures, figure{name: "p50", unit: "µs", value: r.p50}, figure{name: "p99", unit: "µs", value: r.p99})
	}
	return append(figures, figure{name: "CPU", unit: "µs/request", value: float64((after - before).Microseconds()) / float64(r.requests)}), nil
}

// used is the processor time of a target's processes; direct has none.
func (t *target) used() (time.Duration, error) {
	if t.proc == nil {
		return 0, nil
	}
	return cpu(t.proc.cmd.Process.Pid)
}

// wrk runs the program of that name for a while. What is asked is the small
// file, or what a script says.
func wrk(clients, seconds int, script string) func(context.Context, *target) ([]figure, error) {
	return func(ctx context.Context, t *target) ([]figure, error) {
		args := []string{"--latency", "-t", strconv.Itoa(min(clients, 2)), "-c", strconv.Itoa(clients), "-d", fmt.Sprintf("%ds", seconds)}
		path := smallFile
		if script != "" {
			file, err := temporary(script)
			if err != nil {
				return nil, err
			}
			defer os.Remove(file)
			args, path = append(args, "-s", file), postPath
		}
		args = append(append(args, t.fields()...), "http://"+t.conn.addr+path)
		return metered(t, func() (tally, error) {
			out, err := quietly(ctx, "wrk", args...)
			if err != nil {
				return tally{}, err
			}
			r, err := readWrk(out)
			if clients > 1 {
				r.p50, r.p99 = 0, 0 // a queue's, not the proxy's
			}
			return r, err
		})
	}
}

// temporary writes a text to a file of its own and returns the file's name.
func temporary(text string) (string, error) {
	f, err := os.CreateTemp("", "exhibit-bench-*.lua")
	if err != nil {
		return "", err
	}
	_, err = f.WriteString(text)
	return f.Name(), errors.Join(err, f.Close())
}

// quietly is command without the arguments in its error: they hold a token.
func quietly(ctx context.Context, name string, args ...string) (string, error) {
	out, err := command(ctx, name, args...)
	if err != nil {
		var exit interface{ ExitCode() int }
		if errors.As(err, &exit) {
			err = fmt.Errorf("%s ended with %d: %.1000s", name, exit.ExitCode(), out)
		} else {
			err = fmt.Errorf("%s cannot be run\nhint: scripts/setup.sh bench installs it", name)
		}
	}
	return out, err
}

var (
	wrkRate     = regexp.MustCompile(`(?m)^Requests/sec: +([0-9.]+)`)
	wrkRequests = regexp.MustCompile(`(?m)^ +([0-9]+) requests in `)
	wrkQuantile = regexp.MustCompile(`(?m)^ +(50|99)% +([0-9.]+)(us|ms|s)$`)
	wrkTrouble  = regexp.MustCompile(`(?m)^ +(Non-2xx or 3xx responses|Socket errors): .*`)
)

// readWrk reads what wrk printed. A run with other answers than those that were
// meant measured something else.
func readWrk(out string) (r tally, err error) {
	if m := wrkTrouble.FindString(out); m != "" {
		return r, fmt.Errorf("wrk: %s", strings.TrimSpace(m))
	}
	rate, requests := wrkRate.FindStringSubmatch(out), wrkRequests.FindStringSubmatch(out)
	if rate == nil || requests == nil || requests[1] == "0" {
		return r, fmt.Errorf("wrk printed no figure: %s", out)
	}
	for _, m := range wrkQuantile.FindAllStringSubmatch(out, -1) {
		d, err := time.ParseDuration(m[2] + m[3])
		if err != nil {
			return r, err
		}
		if us := float64(d.Nanoseconds()) / 1000; m[1] == "50" {
			r.p50 = us
		} else {
			r.p99 = us
		}
	}
	return r.counted(rate[1], requests[1])
}

// counted fills in rate and number.
func (r tally) counted(rate, requests string) (tally, error) {
	var rerr, nerr error
	r.rate, rerr = strconv.ParseFloat(rate, 64)
	r.requests, nerr = strconv.Atoi(requests)
	return r, errors.Join(rerr, nerr)
}

// h2load runs the program of that name for a while.
func h2load(clients, seconds int) func(context.Context, *target) ([]figure, error) {
	return func(ctx context.Context, t *target) ([]figure, error) {
		args := []string{"-c", strconv.Itoa(clients), "-t", strconv.Itoa(min(clients, 2)), "-m", strconv.Itoa(streams), "-D", strconv.Itoa(seconds)}
		args = append(append(args, t.fields()...), "http://"+t.http2+smallFile)
		return metered(t, func() (tally, error) {
			out, err := quietly(ctx, "h2load", args...)
			if err != nil {
				return tally{}, err
			}
			return readH2load(out)
		})
	}
}

// gets has n small files read over HTTP/1.1 and returns how many it were.
func gets(ctx context.Context, t *target, n int) (int, error) {
	const clients = 16
	args := []string{"--h1", "-c", strconv.Itoa(clients), "-t", "2", "-n", strconv.Itoa(n)}
	out, err := quietly(ctx, "h2load", append(append(args, t.fields()...), "http://"+t.conn.addr+smallFile)...)
	if err != nil {
		return 0, err
	}
	r, err := readH2load(out)
	return r.requests, err
}

var (
	h2loadRate     = regexp.MustCompile(`(?m)^finished in [^,]+, ([0-9.]+) req/s`)
	h2loadRequests = regexp.MustCompile(`(?m)^requests: .* ([0-9]+) done, ([0-9]+) succeeded, ([0-9]+) failed, ([0-9]+) errored, ([0-9]+) timeout`)
	h2loadStatus   = regexp.MustCompile(`(?m)^status codes: ([0-9]+) 2xx, 0 3xx, 0 4xx, 0 5xx`)
)

// readH2load reads what h2load printed, as readWrk does.
func readH2load(out string) (r tally, err error) {
	rate, requests, status := h2loadRate.FindStringSubmatch(out), h2loadRequests.FindStringSubmatch(out), h2loadStatus.FindStringSubmatch(out)
	if rate == nil || requests == nil || requests[1] == "0" {
		return r, fmt.Errorf("h2load printed no figure: %s", out)
	}
	if status == nil || requests[1] != requests[2] || strings.Join(requests[3:], "") != "000" {
		return r, fmt.Errorf("h2load: not all went well: %s", requests[0])
	}
	return r.counted(rate[1], requests[1])
}

// download reads the large file and drops it.
func download(mib int) func(context.Context, *target) ([]figure, error) {
	return func(ctx context.Context, t *target) (f []figure, err error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+t.conn.addr+largeFile, nil)
		if err != nil {
			return nil, err
		}
		if t.gateway != nil {
			r.Header.Set("Authorization", "Bearer "+t.conn.password)
		}
		tr := &http.Transport{DisableCompression: true}
		defer tr.CloseIdleConnections()
		begin := time.Now()
		resp, err := tr.RoundTrip(r)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("status %s", resp.Status)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		if err == nil && n != int64(mib)<<20 {
			err = fmt.Errorf("read %d bytes of %d MiB", n, mib)
		}
		return []figure{{unit: "MiB/s", more: true, value: float64(mib) / time.Since(begin).Seconds()}}, err
	}
}
