package gateway

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/exhibit-gateway/exhibit/internal/alert"
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
	r.MustRegister(sealingMetrics{g.sealer}, witnessMetrics{g.sealer}, stampMetrics{g.sealer}, alertMetrics{g.sender}, sinkMetrics{g.sinks})
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

// alertMetrics are those of who is told of alerts, by name.
type alertMetrics struct{ sender *alert.Sender }

var (
	alertsWaiting = prometheus.NewDesc("exhibit_alerts_waiting", "Alerts that wait to be sent.", []string{"to"}, nil)
	alertsSent    = prometheus.NewDesc("exhibit_alerts_sent_total", "Alerts sent in this boot.", []string{"to"}, nil)
	alertsDropped = prometheus.NewDesc("exhibit_alerts_dropped_total", "Alerts of which the news was dropped, since too many waited; they are on record.", []string{"to"}, nil)
	alertsFailing = prometheus.NewDesc("exhibit_alerts_failing_seconds", "How long alerts have not been taken; 0 while they are.", []string{"to"}, nil)
)

// Describe implements prometheus.Collector.
func (alertMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{alertsWaiting, alertsSent, alertsDropped, alertsFailing} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (m alertMetrics) Collect(to chan<- prometheus.Metric) {
	for _, s := range m.sender.Status() {
		failing := 0.0
		if !s.Since.IsZero() {
			failing = time.Since(s.Since).Seconds()
		}
		to <- prometheus.MustNewConstMetric(alertsWaiting, prometheus.GaugeValue, float64(s.Waiting), s.Name)
		to <- prometheus.MustNewConstMetric(alertsSent, prometheus.CounterValue, float64(s.Sent), s.Name)
		to <- prometheus.MustNewConstMetric(alertsDropped, prometheus.CounterValue, float64(s.Dropped), s.Name)
		to <- prometheus.MustNewConstMetric(alertsFailing, prometheus.GaugeValue, failing, s.Name)
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

// stampMetrics are those of the time stamp authorities, by URL.
type stampMetrics struct{ sealer *seal.Sealer }

var (
	stampedBlocks = prometheus.NewDesc("exhibit_log_stamped_blocks", "Blocks of the newest checkpoint with a time stamp.", nil, nil)
	stampBehind   = prometheus.NewDesc("exhibit_timestamp_behind_blocks", "Blocks that a time stamp authority has not stamped.", []string{"authority"}, nil)
	stampFailing  = prometheus.NewDesc("exhibit_timestamp_failing_seconds", "How long a time stamp authority has not stamped though asked; 0 while it does.", []string{"authority"}, nil)
)

// Describe implements prometheus.Collector.
func (stampMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{stampedBlocks, stampBehind, stampFailing} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (m stampMetrics) Collect(to chan<- prometheus.Metric) {
	st := m.sealer.Status().Stamped
	if len(st.Authorities) == 0 {
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(stampedBlocks, float64(st.Size))
	for _, a := range st.Authorities {
		failing := 0.0
		if !a.Since.IsZero() {
			failing = time.Since(a.Since).Seconds()
		}
		gauge(stampBehind, float64(a.Behind), a.URL)
		gauge(stampFailing, failing, a.URL)
	}
}
