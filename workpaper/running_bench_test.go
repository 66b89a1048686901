package workpaper_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

const (
	benchAgents = 20
	benchDays   = 365
	benchMinute = 60 * packtest.Second
)

// year streams the records of a year of a gateway: each of twenty agents has a
// session a day, and there is a heartbeat a minute. It is made of the records of
// one session, at their new places.
type year struct {
	fold     func(*evidence.Record) error
	setup    []evidence.Record
	agents   []map[evidence.Type]evidence.Record
	pos      evidence.Position
	own      uint64
	last     int64
	commands int
}

func newYear(tb testing.TB, fold func(*evidence.Record) error) *year {
	tb.Helper()
	g := packtest.New()
	g.Change = func(d *evidence.Draft) { // rights last for the year
		end := map[evidence.Type]string{evidence.CredentialEnroll: "not_after", evidence.GrantCreate: "expires"}[d.Head.Type]
		if end == "" {
			return
		}
		var body map[string]any
		decoder := json.NewDecoder(bytes.NewReader(d.Body))
		decoder.UseNumber()
		if err := decoder.Decode(&body); err != nil {
			panic(err)
		}
		maps.Copy(body, map[string]any{end: packtest.Noon + 2*365*24*packtest.Hour})
		d.Body = evidence.EncodeBody(body)
	}
	g.Boot()
	for i := range benchAgents {
		g.Organise(fmt.Sprintf("bot-%d", i), "writer")
	}
	y := &year{fold: fold}
	after := 0
	if err := g.Records(func(r *evidence.Record) error { y.setup = append(y.setup, *r); return nil }); err != nil {
		tb.Fatal(err)
	}
	after = len(y.setup)
	for i := range benchAgents {
		s := g.Open(fmt.Sprintf("bot-%d", i), "orders")
		s.Do("INSERT INTO public.orders VALUES (?)", "postgres:insert", "public.orders")
		s.Close()
	}
	n := 0
	if err := g.Records(func(r *evidence.Record) error {
		if n++; n <= after {
			return nil
		}
		if r.Head.Type == evidence.CredentialIssue {
			y.agents = append(y.agents, make(map[evidence.Type]evidence.Record))
		}
		y.agents[len(y.agents)-1][r.Head.Type] = *r
		return nil
	}); err != nil {
		tb.Fatal(err)
	}
	return y
}

// put streams a record at the next place and time.
func (y *year) put(r evidence.Record, t int64, n *uint64) (evidence.Position, error) {
	*n++
	r.Head.Pos, r.Head.Time, r.Head.N = y.pos, t, *n
	if r.Head.Type == evidence.SessionStart {
		r.Head.Session = y.pos
	}
	y.pos.Seq++
	y.last = t
	return r.Head.Pos, y.fold(&r)
}

// begin streams the rights.
func (y *year) begin() error {
	for _, r := range y.setup {
		y.pos, y.own = r.Head.Pos, y.own+1
		y.last = r.Head.Time
		if err := y.fold(&r); err != nil {
			return err
		}
	}
	y.pos.Seq++
	return nil
}

// day streams a day with so many commands of each agent, spread over it.
func (y *year) day(day, commands int) error {
	from := packtest.Noon + int64(day)*24*packtest.Hour + benchMinute
	type open struct {
		id evidence.Position
		n  uint64
	}
	sessions := make([]open, len(y.agents))
	for i, a := range y.agents {
		issue := a[evidence.CredentialIssue]
		var token evidence.CredentialBody
		if err := evidence.DecodeBody(issue.Body, &token); err != nil {
			return err
		}
		token.ID, token.NotBefore, token.NotAfter = fmt.Sprintf("tok_%d-%d", day, i), from, from+packtest.Hour
		issue.Body = evidence.EncodeBody(token)
		if _, err := y.put(issue, from, &y.own); err != nil {
			return err
		}
		authn := a[evidence.Authn]
		var proof evidence.AuthnBody
		if err := evidence.DecodeBody(authn.Body, &proof); err != nil {
			return err
		}
		proof.Credential = token.ID
		authn.Body = evidence.EncodeBody(proof)
		at, err := y.put(authn, from, &y.own)
		if err != nil {
			return err
		}
		start := a[evidence.SessionStart]
		var b evidence.SessionStartBody
		if err := evidence.DecodeBody(start.Body, &b); err != nil {
			return err
		}
		b.Credential, b.Authn = token.ID, at.String()
		start.Body = evidence.EncodeBody(b)
		if sessions[i].id, err = y.put(start, from, &sessions[i].n); err != nil {
			return err
		}
		up := a[evidence.SessionUpstream]
		up.Head.Session = sessions[i].id
		if _, err := y.put(up, from, &sessions[i].n); err != nil {
			return err
		}
	}
	done := 0
	for minute := range 24 * 60 {
		t := from + int64(minute)*benchMinute
		beat := evidence.Record{Head: evidence.Head{Type: evidence.Heartbeat, HasBody: true}, Body: evidence.EncodeBody(evidence.HeartbeatBody{})}
		if _, err := y.put(beat, t, &y.own); err != nil {
			return err
		}
		for ; done < commands*(minute+1)/(24*60); done++ {
			for i, a := range y.agents {
				ask, end := a[evidence.CommandIntent], a[evidence.CommandResult]
				ask.Head.Session, end.Head.Session = sessions[i].id, sessions[i].id
				of, err := y.put(ask, t, &sessions[i].n)
				if err != nil {
					return err
				}
				end.Head.Of = of
				if _, err := y.put(end, t, &sessions[i].n); err != nil {
					return err
				}
				y.commands++
			}
		}
	}
	for i, a := range y.agents {
		end := a[evidence.SessionEnd]
		end.Head.Session, end.Head.Of = sessions[i].id, sessions[i].id
		end.Head.Bytes = uint64(done) * 120
		end.Body = evidence.EncodeBody(evidence.SessionEndBody{Reason: "terminate", Commands: uint64(done)})
		if _, err := y.put(end, y.last, &sessions[i].n); err != nil {
			return err
		}
	}
	return nil
}

// What a question costs after a year: with the fold at hand, and after a start
// that reads its cache and a day's records.
func BenchmarkReadiness(b *testing.B) {
	for _, total := range []int{1_000_000, 10_000_000} {
		b.Run(fmt.Sprint(total), func(b *testing.B) {
			run := workpaper.NewRunning()
			records := 0
			y := newYear(b, func(r *evidence.Record) error { records++; return run.Record(r) })
			began := time.Now()
			if err := y.begin(); err != nil {
				b.Fatal(err)
			}
			each := total / benchDays / benchAgents
			for day := range benchDays - 1 {
				if err := y.day(day, each); err != nil {
					b.Fatal(err)
				}
			}
			fold := time.Since(began)
			folded := records
			var kept bytes.Buffer
			began = time.Now()
			if err := run.Keep(&kept); err != nil {
				b.Fatal(err)
			}
			keep, size := time.Since(began), kept.Len()
			began = time.Now()
			resumed, err := workpaper.Resume(&kept)
			if err != nil {
				b.Fatal(err)
			}
			resume := time.Since(began)
			run = resumed
			began = time.Now()
			if err := y.day(benchDays-1, each); err != nil {
				b.Fatal(err)
			}
			day := time.Since(began)
			for b.Loop() {
				r, err := run.Readiness(workpaper.Ask{Now: y.last, Soon: 14 * 24 * time.Hour})
				if err != nil {
					b.Fatal(err)
				}
				for _, t := range r.Tests {
					if t.State == workpaper.Fail {
						b.Fatalf("%s: %v", t.ID, t.Exceptions[0])
					}
				}
			}
			for unit, n := range map[string]float64{"folded-records/s": float64(folded) / fold.Seconds(), "ms-keep": float64(keep.Microseconds()) / 1000, "cachebytes": float64(size),
				"ms-resume": float64(resume.Microseconds()) / 1000, "ms-day": float64(day.Microseconds()) / 1000, "commands": float64(y.commands), "records": float64(records)} {
				b.ReportMetric(n, unit)
			}
		})
	}
}
