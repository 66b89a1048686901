package gateway

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/export/sink"
	"github.com/exhibit-gateway/exhibit/internal/seal"
)

// sinksDir holds how far each sink is. It is in no backup: who goes on from an
// older copy of the log can't know what others have.
const sinksDir = "sinks"

// sinkLog is the log as sinks read it.
type sinkLog struct{ g *Gateway }

func (l sinkLog) After(pos evidence.Position) sink.Reader {
	if !pos.IsZero() {
		pos.Seq++
	}
	return l.reader(l.g.sealer.ReadFrom(pos))
}

func (l sinkLog) Since(t int64) (sink.Reader, error) {
	r, err := l.g.sealer.ReadSince(t)
	if err != nil {
		return nil, err
	}
	return l.reader(r), nil
}

// reader goes on behind blocks that were disposed of before a sink took them:
// their retention has ended, whoever lacks them.
func (l sinkLog) reader(r *seal.Reader) sink.Reader {
	return r.Sealed().PastDisposed(func(blocks uint64) {
		l.g.log.Warn("blocks were disposed of before a sink took them: it goes on behind them", "blocks", blocks)
	})
}

func (l sinkLog) At(ctx context.Context, pos evidence.Position) (*evidence.Record, error) {
	rec, err := l.g.find(ctx, pos)
	if errors.Is(err, seal.ErrDisposed) {
		return nil, fmt.Errorf("%w: %w", sink.ErrGone, err)
	}
	return rec, err
}

func (l sinkLog) Behind(pos evidence.Position) (uint64, error) { return l.g.sealer.SealedAfter(pos) }

var _ sink.Reader = (*seal.Reader)(nil)

func (g *Gateway) newSinks() *sink.Runner {
	return sink.New(sink.Config{
		Dir: filepath.Join(g.opened.Data, sinksDir), Origin: g.opened.Origin, Version: g.opened.Version, Logger: g.log,
	}, sinkLog{g}, g.opened.Sinks)
}

// lastDelivery is how long a gateway that stops waits for sinks to take its last
// records. What they haven't taken they get after the next start.
const lastDelivery = 3 * time.Second

func (g *Gateway) deliverLast(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lastDelivery)
	defer cancel()
	g.sinks.Drain(ctx)
}

// apiSinks says how it goes with the sinks.
func (g *Gateway) apiSinks() (list []api.Sink) {
	for _, s := range g.sinks.Status() {
		list = append(list, api.Sink{
			Name: s.Name, To: s.To, Delivered: s.Delivered.String(), Records: s.Records, Seconds: s.Lag.Seconds(),
			Problem: s.Problem, Since: s.Since.UTC(),
		})
	}
	return list
}

// sinkMetrics are those of the sinks, by name.
type sinkMetrics struct{ sinks *sink.Runner }

var (
	sinkEvents  = prometheus.NewDesc("exhibit_sink_events_total", "Events that a sink took in this boot.", []string{"sink"}, nil)
	sinkRecords = prometheus.NewDesc("exhibit_sink_behind_records", "Sealed records that a sink has not taken.", []string{"sink"}, nil)
	sinkSeconds = prometheus.NewDesc("exhibit_sink_behind_seconds", "Age of the oldest record that is being delivered to a sink.", []string{"sink"}, nil)
	sinkFailing = prometheus.NewDesc("exhibit_sink_failing_seconds", "How long a sink has not taken events; 0 while it does.", []string{"sink"}, nil)
)

// Describe implements prometheus.Collector.
func (sinkMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{sinkEvents, sinkRecords, sinkSeconds, sinkFailing} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (m sinkMetrics) Collect(to chan<- prometheus.Metric) {
	for _, s := range m.sinks.Status() {
		failing := 0.0
		if !s.Since.IsZero() {
			failing = time.Since(s.Since).Seconds()
		}
		to <- prometheus.MustNewConstMetric(sinkEvents, prometheus.CounterValue, float64(s.Events), s.Name)
		to <- prometheus.MustNewConstMetric(sinkRecords, prometheus.GaugeValue, float64(s.Records), s.Name)
		to <- prometheus.MustNewConstMetric(sinkSeconds, prometheus.GaugeValue, s.Lag.Seconds(), s.Name)
		to <- prometheus.MustNewConstMetric(sinkFailing, prometheus.GaugeValue, failing, s.Name)
	}
}
