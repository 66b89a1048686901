package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"os"

	"github.com/exhibit-gateway/exhibit/internal/config"
	"github.com/exhibit-gateway/exhibit/internal/export/sink"
)

// sinksOf are those who are delivered the log.
func sinksOf(list []config.Sink) (targets []sink.Target, err error) {
	for i, s := range list {
		t, err := sinkOf(s)
		if err != nil {
			return nil, hinted{fmt.Errorf("sinks[%d].%w", i, err), "nothing was put in force"}
		}
		targets = append(targets, t)
	}
	return targets, nil
}

func sinkOf(s config.Sink) (t sink.Target, err error) {
	t.Name = s.Name
	begin, err := s.Begin()
	if err != nil {
		return t, fmt.Errorf("from: %w", err)
	}
	if !begin.IsZero() {
		t.From = begin.UnixMicro()
	}
	trust := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.CA != "" {
		pem, err := os.ReadFile(s.CA)
		if err != nil {
			return t, fmt.Errorf("ca: %w", err)
		}
		if trust.RootCAs = x509.NewCertPool(); !trust.RootCAs.AppendCertsFromPEM(pem) {
			return t, fmt.Errorf("ca: %s holds no certificate in PEM", s.CA)
		}
	}
	switch s.Kind() {
	case "file":
		t.To, t.Delivery = s.File, sink.File(s.File)
	case "url":
		u, err := url.Parse(s.URL)
		if err != nil {
			return t, fmt.Errorf("url: %w", err)
		}
		t.To, t.Delivery = u.Host, sink.HTTP(s.URL, trust, headerOf(s.Header))
	case "syslog":
		network, address, err := config.Syslog{Address: s.Syslog}.Split()
		if err != nil {
			return t, fmt.Errorf("syslog: %w", err)
		}
		t.To = "syslog " + address
		if t.Delivery, err = sink.Syslog(network, address, trust); err != nil {
			return t, fmt.Errorf("syslog: %w", err)
		}
	}
	return t, nil
}

// headerOf reads the field that proves who the gateway is, each time anew; nil
// is none.
func headerOf(h config.UpstreamHeader) func() (name, value string, err error) {
	if h.Name == "" {
		return nil
	}
	return func() (string, string, error) {
		v, err := h.Value.Read()
		return h.Name, h.Prefix + v, err
	}
}
