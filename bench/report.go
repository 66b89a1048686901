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
	When   time.Time `json:"when"`
	Took   string    `json:"took"`
	Quick  bool      `json:"quick"`
	CPUs   int       `json:"cpus"`
	Go     string    `json:"go"`
	Tables []*table  `json:"tables"`
}

// table is a suite's part of the report.
type table struct {
	Name     string            `json:"name"`
	Peer     string            `json:"peer"`
	Took     string            `json:"took"`
	Versions map[string]string `json:"versions"`
	Targets  []string          `json:"targets"`
	Results  []*result         `json:"results"`
	Evidence []evidenceResult  `json:"evidence,omitempty"`
	Failures []string          `json:"failures,omitempty"`

	method   string
	exhibits []string // the targets that keep evidence
}

// result is one figure of one workload, for each target one sample a round.
type result struct {
	Workload string               `json:"workload"`
	Unit     string               `json:"unit"`
	More     bool                 `json:"more_is_better"`
	Samples  map[string][]float64 `json:"samples"`
	Medians  map[string]float64   `json:"medians"`
	// OfDirect and OfPeer are the medians over rounds of a target's sample
	// divided by direct's, or the bare Go proxy's, of the same round.
	OfDirect map[string]float64 `json:"of_direct,omitempty"`
	OfPeer   map[string]float64 `json:"of_peer,omitempty"`
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

func newReport(o options) *report {
	return &report{When: time.Now().UTC().Truncate(time.Second), Quick: o.quick, CPUs: runtime.NumCPU(), Go: runtime.Version()}
}

// table begins the table of a suite.
func (r *report) table(s *suite, b *bed) *table {
	t := &table{Name: s.name, Peer: s.peer, Versions: make(map[string]string), method: s.method}
	if b.server != "" {
		t.Versions["server"] = b.server
	}
	for _, x := range b.targets {
		t.Targets = append(t.Targets, x.name)
		if x.version != "" {
			t.Versions[x.name] = x.version
		}
		if x.gateway != nil {
			t.exhibits = append(t.exhibits, x.name)
		}
	}
	r.Tables = append(r.Tables, t)
	return t
}

func (r *report) failures() (n int) {
	for _, t := range r.Tables {
		n += len(t.Failures)
	}
	return n
}

// add takes the figures of one run.
func (t *table) add(w workload, of *target, figures []figure, err error) {
	if err != nil {
		failure := fmt.Sprintf("%s, %s: %v", of.name, w.name, err)
		t.Failures = append(t.Failures, failure)
		progress("failed: %s", failure)
		return
	}
	for _, f := range figures {
		title := w.name
		if f.name != "" {
			title += ", " + f.name
		}
		i := slices.IndexFunc(t.Results, func(x *result) bool { return x.Workload == title })
		if i < 0 {
			i = len(t.Results)
			t.Results = append(t.Results, &result{Workload: title, Unit: f.unit, More: f.more, Samples: make(map[string][]float64)})
		}
		res := t.Results[i]
		res.Samples[of.name] = append(res.Samples[of.name], f.value)
	}
}

func (t *table) addEvidence(of *target, e evidence, err error) {
	if err != nil {
		t.Failures = append(t.Failures, fmt.Sprintf("%s, stored evidence and verification: %v", of.name, err))
		return
	}
	t.Evidence = append(t.Evidence, evidenceResult{of.name, e})
}

// finish derives medians and ratios from the samples.
func (t *table) finish() {
	for _, x := range t.Results {
		x.Medians = make(map[string]float64)
		for name, s := range x.Samples {
			x.Medians[name] = median(s)
		}
		if x.More {
			x.OfDirect, x.OfPeer = x.ratios(t.Targets[0]), x.ratios(t.Peer)
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
	for _, t := range r.Tables {
		t.finish()
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// rows are the table's figures: throughput as a share of direct, the rest as
// what each target adds.
func (t *table) rows() [][]string {
	t.finish()
	rows := [][]string{append([]string{""}, t.Targets...)}
	for _, x := range t.Results {
		row := []string{x.Workload}
		for _, name := range t.Targets {
			row = append(row, x.cell(name, t.Targets[0]))
		}
		rows = append(rows, row)
	}
	return rows
}

func (x *result) cell(name, base string) string {
	v, ok := x.Medians[name]
	direct := x.Medians[base]
	switch {
	case !ok:
		return "failed"
	case name == base && !x.More && direct == 0:
		return "-"
	case name == base:
		return number(v) + " " + x.Unit
	case x.More:
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
func (t *table) notes() []string {
	var n []string
	for _, name := range t.exhibits {
		if of := t.ofPeer(name); of != "" {
			n = append(n, fmt.Sprintf("%s as a share of %s: %s.", name, t.Peer, of))
		}
	}
	for _, e := range t.Evidence {
		n = append(n,
			fmt.Sprintf("%s: %.0f bytes of stored evidence per command (%d commands; %s).", e.Target, e.BytesPerCommand, e.Commands, folders(e.Stored)),
			fmt.Sprintf("%s: %.0f records verified a second (%d records; pack written in %.1f s, verified in %.1f s).",
				e.Target, e.RecordsPerSecond, e.Records, e.PackSeconds, e.VerifySeconds))
	}
	for _, f := range t.Failures {
		n = append(n, "failed: "+f)
	}
	return n
}

// ofPeer is a target's throughput beside the bare Go proxy's, of each workload.
func (t *table) ofPeer(name string) string {
	var parts []string
	for _, x := range t.Results {
		if ratio, ok := x.OfPeer[name]; ok {
			parts = append(parts, fmt.Sprintf("%s %.2f", x.Workload, ratio))
		}
	}
	return strings.Join(parts, "; ")
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
	for _, t := range r.Tables {
		b.WriteString(t.Name)
		if server := t.Versions["server"]; server != "" {
			b.WriteString(" (" + server + ")")
		}
		b.WriteString("\n")
		w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		for _, row := range t.rows() {
			fmt.Fprintln(w, strings.Join(row, "\t"))
		}
		_ = w.Flush() // into memory
		for _, n := range t.notes() {
			b.WriteString(n + "\n")
		}
		b.WriteString("\n")
	}
	return b.String()
}

// markdown is the document: the tables that were measured, and those of the
// document before of suites that weren't.
func (r *report) markdown(before string) string {
	sections := sectionsOf(before)
	for _, t := range r.Tables {
		sections[t.Name] = t.markdown(r)
	}
	var b strings.Builder
	b.WriteString(introduction)
	for _, s := range suites() {
		if text := sections[s.name]; text != "" {
			b.WriteString("\n## " + s.name + "\n" + text)
		}
	}
	b.WriteString(evidenceMethod)
	return b.String()
}

const introduction = "# Benchmarks\n\nWritten by `make bench`; do not edit. Every line of a table was measured in one run on one machine that also ran client and server, the targets in turn (A B C A B C). " +
	"Throughput is a share of direct in the same round, the median over rounds: the absolute figures are that machine's, the ratios travel. Latency, memory and processor time are what stands on top of direct.\n"

// sectionsOf parts a document at its headings.
func sectionsOf(doc string) map[string]string {
	sections := make(map[string]string)
	for _, part := range strings.Split(doc, "\n## ")[1:] {
		name, text, _ := strings.Cut(part, "\n")
		sections[name] = strings.TrimRight(text, "\n") + "\n"
	}
	return sections
}

func (t *table) markdown(r *report) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nMeasured on %s (%d CPUs, %s, took %s).\n\n", r.When.Format("2 January 2006"), r.CPUs, r.Go, t.Took)
	for i, row := range t.rows() {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			b.WriteString("|---" + strings.Repeat("|---:", len(row)-1) + "|\n")
		}
	}
	if notes := t.notes(); len(notes) > 0 {
		b.WriteString("\n- " + strings.Join(notes, "\n- ") + "\n")
	}
	var versions []string
	for _, name := range slices.Sorted(maps.Keys(t.Versions)) {
		versions = append(versions, name+": "+t.Versions[name])
	}
	if len(versions) > 0 {
		b.WriteString("\nVersions: " + strings.Join(versions, "; ") + ".\n")
	}
	b.WriteString("\nWhat is compared:\n\n" + t.method)
	return b.String()
}

const evidenceMethod = `
## Evidence

Stored evidence: growth of the data directory (blocks, log, wrapped keys; neither the journal, which is a buffer, nor partial tiles, which go once the full ones are there) over a fixed number of commands, divided by them. Verification: exhibit-verify on a pack of all that the run recorded.
`
