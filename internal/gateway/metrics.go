package gateway

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/exhibit-gateway/exhibit/internal/seal"
)

// Metrics registers what an operator watches. Labels name listeners and never
// agents, who could make as many as they like.
func (g *Gateway) Metrics(r prometheus.Registerer) {
	gauge := func(name, help string, value func() float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "exhibit", Name: name, Help: help}, value))
	}
	counter := func(name, help, label string, value func() float64) {
		o := prometheus.CounterOpts{Namespace: "exhibit", Name: name, Help: help}
		if label != "" {
			o.ConstLabels = prometheus.Labels{"listener": label}
		}
		r.MustRegister(prometheus.NewCounterFunc(o, value))
	}
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	gauge("sessions", "Sessions open.", func() float64 { return float64(g.gate.OpenSessions()) })
	gauge("log_blocks", "Blocks sealed in the log.", func() float64 { return float64(g.sealer.Status().Blocks) })
	gauge("log_unsealed_bytes", "Bytes of the journal that wait for their blocks.", func() float64 { return float64(g.sealer.Status().UnsealedBytes) })
	gauge("log_unsealed_seconds", "Age of the oldest record that waits for its block.", func() float64 { return g.sealer.Status().UnsealedAge.Seconds() })
	r.MustRegister(sealingMetrics{g.sealer}, witnessMetrics{g.sealer})
	gauge("ready", "1 while new sessions are taken.", func() float64 {
		if g.Ready() != nil {
			return 0
		}
		return 1
	})
	counter("records_total", "Records written in this boot.", "", func() float64 { return float64(g.recorder.Count()) })
	counter("commands_total", "Commands asked for in this boot.", "", func() float64 { return float64(g.gate.Commands()) })
	counter("commands_refused_total", "Commands that policy refused in this boot.", "", func() float64 { return float64(g.gate.Refused()) })
	for _, l := range g.listeners {
		counter("connections_total", "Connections accepted.", l.Name(), func() float64 { return float64(l.Stats().Accepted) })
		counter("connections_refused_total", "Connections over a limit.", l.Name(), func() float64 { return float64(l.Stats().Refused) })
	}
}

// sealingMetrics say what holds sealing up.
type sealingMetrics struct{ sealer *seal.Sealer }

var sealingFailing = prometheus.NewDesc("exhibit_log_failing_seconds", "How long sealing has failed, by what it waits for; 0 while it doesn't.", []string{"at"}, nil)

// Describe implements prometheus.Collector.
func (sealingMetrics) Describe(to chan<- *prometheus.Desc) { to <- sealingFailing }

// Collect implements prometheus.Collector.
func (m sealingMetrics) Collect(to chan<- prometheus.Metric) {
	st := m.sealer.Status()
	for _, part := range seal.Parts {
		failing := 0.0
		if st.Err != nil && st.At == part {
			failing = time.Since(st.Since).Seconds()
		}
		to <- prometheus.MustNewConstMetric(sealingFailing, prometheus.GaugeValue, failing, string(part))
	}
}

// witnessMetrics are those of the witnesses, by name.
type witnessMetrics struct{ sealer *seal.Sealer }

var (
	witnessedBlocks = prometheus.NewDesc("exhibit_log_witnessed_blocks", "Blocks that a quorum of witnesses has cosigned.", nil, nil)
	witnessBehind   = prometheus.NewDesc("exhibit_witness_behind_blocks", "Blocks that a witness has not seen.", []string{"witness"}, nil)
	witnessFailing  = prometheus.NewDesc("exhibit_witness_failing_seconds", "How long a witness has not cosigned; 0 while it does.", []string{"witness"}, nil)
)

// Describe implements prometheus.Collector.
func (witnessMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{witnessedBlocks, witnessBehind, witnessFailing} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (m witnessMetrics) Collect(to chan<- prometheus.Metric) {
	st := m.sealer.Status().Witnessed
	if len(st.Witnesses) == 0 {
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(witnessedBlocks, float64(st.Size))
	for _, w := range st.Witnesses {
		failing := 0.0
		if !w.Since.IsZero() {
			failing = time.Since(w.Since).Seconds()
		}
		gauge(witnessBehind, float64(w.Behind), w.Name)
		gauge(witnessFailing, failing, w.Name)
	}
}
