package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report is what was measured, in the order in which it was.
type report struct {
	When     time.Time         `json:"when"`
	Took     string            `json:"took"`
	Quick    bool              `json:"quick"`
	CPUs     int               `json:"cpus"`
	Go       string            `json:"go"`
	Versions map[string]string `json:"versions"`
	Targets  []string          `json:"targets"`
	Results  []*result         `json:"results"`
	Evidence []evidenceResult  `json:"evidence,omitempty"`
	Failures []string          `json:"failures,omitempty"`
}

// result is one figure of one workload, for each target one sample a round.
type result struct {
	Workload string               `json:"workload"`
	Unit     string               `json:"unit"`
	Better   string               `json:"better"`
	Samples  map[string][]float64 `json:"samples"`
	Medians  map[string]float64   `json:"medians"`
	// OfDirect and OfRelay are the medians over rounds of a target's sample
	// divided by direct's, or the relay's, of the same round.
	OfDirect map[string]float64 `json:"of_direct,omitempty"`
	OfRelay  map[string]float64 `json:"of_relay,omitempty"`
}

type evidenceResult struct {
	Target string `json:"target"`
	evidence
}

// evidence is what keeping and checking the records costs.
type evidence struct {
	Commands         int              `json:"commands"`
	Stored           map[string]int64 `json:"stored"` // bytes, by folder of the data directory
	BytesPerCommand  float64          `json:"bytes_per_command"`
	PackSeconds      float64          `json:"pack_seconds"`
	VerifySeconds    float64          `json:"verify_seconds"`
	Records          int              `json:"records"`
	RecordsPerSecond float64          `json:"records_per_second"`
}

func newReport(o options, server string, targets []*target) *report {
	r := &report{When: time.Now().UTC().Truncate(time.Second), Quick: o.quick, CPUs: runtime.NumCPU(), Go: runtime.Version(),
		Versions: map[string]string{"server": server}}
	for _, t := range targets {
		r.Targets = append(r.Targets, t.name)
		if t.version != "" && t.name != "direct" {
			r.Versions[t.name] = t.version
		}
	}
	return r
}

// add takes the figures of one run.
func (r *report) add(w workload, t *target, v values, err error) {
	if err != nil {
		failure := fmt.Sprintf("%s, %s: %v", t.name, w.Name, err)
		r.Failures = append(r.Failures, failure)
		progress("failed: %s", failure)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(v)) {
		title := w.Name
		if name != "" {
			title += ", " + name
		}
		i := slices.IndexFunc(r.Results, func(x *result) bool { return x.Workload == title })
		if i < 0 {
			i = len(r.Results)
			r.Results = append(r.Results, &result{Workload: title, Unit: w.Unit, Better: w.Better, Samples: make(map[string][]float64)})
		}
		res := r.Results[i]
		res.Samples[t.name] = append(res.Samples[t.name], v[name])
	}
}

func (r *report) addEvidence(t *target, e evidence, err error) {
	if err != nil {
		r.Failures = append(r.Failures, fmt.Sprintf("%s, stored evidence and verification: %v", t.name, err))
		return
	}
	r.Evidence = append(r.Evidence, evidenceResult{t.name, e})
}

// finish derives medians and ratios from the samples.
func (r *report) finish() {
	for _, x := range r.Results {
		x.Medians = make(map[string]float64)
		for name, s := range x.Samples {
			x.Medians[name] = median(s)
		}
		if x.Better == "more" {
			x.OfDirect, x.OfRelay = x.ratios("direct"), x.ratios("relay")
		}
	}
}

// ratios compares each target with one of them, round by round: what slows the
// machine down for a while slows both.
func (x *result) ratios(base string) map[string]float64 {
	ratios := make(map[string]float64)
	for name, samples := range x.Samples {
		if len(samples) != len(x.Samples[base]) {
			continue // a round failed; the report says so
		}
		of := make([]float64, len(samples))
		for i, v := range samples {
			of[i] = v / x.Samples[base][i]
		}
		ratios[name] = median(of)
	}
	return ratios
}

func median(s []float64) float64 { return quantile(slices.Sorted(slices.Values(s)), 0.5) }

// quantile interpolates in a sorted sample; NaN in an empty one.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	at := q * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}

func (r *report) writeJSON(path string) error {
	r.finish()
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// table is the report's figures as rows of text: throughput as a share of
// direct, the rest as what each target adds.
func (r *report) table() [][]string {
	r.finish()
	rows := [][]string{append([]string{"", "direct"}, r.Targets[1:]...)}
	for _, x := range r.Results {
		row := []string{x.Workload}
		for _, name := range r.Targets {
			row = append(row, x.cell(name))
		}
		rows = append(rows, row)
	}
	return rows
}

func (x *result) cell(name string) string {
	v, ok := x.Medians[name]
	direct := x.Medians["direct"]
	switch {
	case !ok:
		return "failed"
	case name == "direct" && x.Better == "less" && direct == 0:
		return "-"
	case name == "direct":
		return number(v) + " " + x.Unit
	case x.Better == "more":
		ratio, ok := x.OfDirect[name]
		if !ok {
			return "failed"
		}
		return fmt.Sprintf("%.2f", ratio)
	case direct == 0:
		return number(v) + " " + x.Unit
	default:
		return fmt.Sprintf("%+.0f %s", v-direct, x.Unit)
	}
}

func number(v float64) string {
	if v < 10 {
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// notes are the lines below the table.
func (r *report) notes() []string {
	var n []string
	for _, e := range r.Evidence {
		n = append(n,
			fmt.Sprintf("%s: %.0f bytes of stored evidence per command (%d commands; %s).", e.Target, e.BytesPerCommand, e.Commands, folders(e.Stored)),
			fmt.Sprintf("%s: %.0f records verified a second (%d records; pack written in %.1f s, verified in %.1f s).",
				e.Target, e.RecordsPerSecond, e.Records, e.PackSeconds, e.VerifySeconds))
	}
	for _, f := range r.Failures {
		n = append(n, "failed: "+f)
	}
	return n
}

func folders(sizes map[string]int64) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(sizes)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, sizes[name]))
	}
	return strings.Join(parts, ", ")
}

func (r *report) text() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range r.table() {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush() // into memory
	for _, n := range r.notes() {
		b.WriteString(n + "\n")
	}
	return b.String()
}

// markdown is docs/benchmarks.md.
func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, `# Benchmarks

Written by %smake bench%s on %s (%d CPUs, %s, took %s); do not edit. Every line was measured in one run on one machine that also ran client and server, the targets in turn (A B C A B C). Throughput is a share of direct in the same round, the median over rounds: the absolute figures are that machine's, the ratios travel. Latency and memory are what stands on top of direct.

`, "`", "`", r.When.Format("2 January 2006"), r.CPUs, r.Go, r.Took)
	for i, row := range r.table() {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			b.WriteString("|---" + strings.Repeat("|---:", len(row)-1) + "|\n")
		}
	}
	b.WriteString("\n")
	for _, n := range r.notes() {
		fmt.Fprintf(&b, "- %s\n", n)
	}
	b.WriteString("\nVersions: ")
	var versions []string
	for _, name := range slices.Sorted(maps.Keys(r.Versions)) {
		versions = append(versions, name+": "+r.Versions[name])
	}
	b.WriteString(strings.Join(versions, "; ") + ".\n")
	b.WriteString(method)
	return b.String()
}

const method = `
## What is compared

- **direct**: pgbench to PostgreSQL, plain TCP on loopback, SCRAM authentication, synchronous commit.
- **relay**: two goroutines per connection in Go that look at nothing; what a proxy in Go costs before it does anything.
- **haproxy**: TCP mode, as many threads as CPUs. **pgbouncer**: session mode, one thread; it reuses server connections, and checks passwords by itself.
- **exhibit (process)**, **exhibit (power)**: token authentication, one upstream connection per session, each command parsed, decided and recorded before it is forwarded. *process*: what reads is forwarded once its record survives the gateway's end; *power*: once it survives power loss. What writes waits for the disk in both.
- select: pgbench's -S script; TPC-B-like: its default script. Latency: one client, one prepared select at a time. Memory: growth of the proxy's proportional set size (PSS), children included, over that many sessions that have each asked once.
- Stored evidence: growth of the data directory (blocks, log, wrapped keys; neither the journal, which is a buffer, nor partial tiles, which go once the full ones are there) over a fixed number of selects, divided by them. Verification: exhibit-verify on a pack of all that the run recorded.
`
