package config

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"time"
)

// Sink is delivered the log as OCSF events. One of File, URL and Syslog says
// where.
type Sink struct {
	Name   string         `yaml:"name"`   // in metrics and status; how far it is, is kept under it
	File   string         `yaml:"file"`   // appended to
	URL    string         `yaml:"url"`    // posted batches of JSON Lines
	Header UpstreamHeader `yaml:"header"` // that proves there who the gateway is
	Syslog string         `yaml:"syslog"` // tcp://host:601 or tls://host:6514 (RFC 5424)
	CA     string         `yaml:"ca"`     // PEM file of the roots of the other side; default: the system's
	From   string         `yaml:"from"`   // date of the first records; default: all of the log
}

// Begin is the time of the first records, zero for all.
func (s Sink) Begin() (time.Time, error) {
	if s.From == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.DateOnly, s.From); err == nil {
		return t, nil
	}
	return time.Parse(time.RFC3339, s.From)
}

// Kind says where a sink is: the key that has it.
func (s Sink) Kind() string {
	switch {
	case s.File != "":
		return "file"
	case s.URL != "":
		return "url"
	}
	return "syslog"
}

var sinkName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)

func (c *Config) validateSinks(d *decoder) {
	seen := make(map[string]bool)
	for i, s := range c.Sinks {
		at := fmt.Sprintf("sinks[%d]", i)
		if !sinkName.MatchString(s.Name) {
			d.fail(at+".name", "name must be 1 to 32 of a-z, 0-9 and -, beginning with a letter", "for example name: siem; how far the sink is, is kept under it")
		} else if seen[s.Name] {
			d.fail(at+".name", fmt.Sprintf("another sink is named %s", s.Name), "")
		}
		seen[s.Name] = true
		n := 0
		for _, where := range []string{s.File, s.URL, s.Syslog} {
			if where != "" {
				n++
			}
		}
		if n != 1 {
			d.fail(at, "a sink needs one of file, url and syslog", "for example url: https://siem.example.com/exhibit")
			continue
		}
		c.validateSink(d, at, s)
	}
}

func (c *Config) validateSink(d *decoder, at string, s Sink) {
	if s.URL != "" {
		u, err := url.Parse(s.URL)
		if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && !(u.Scheme == "http" && Local(hostPort(u))) {
			d.fail(at+".url", "url must be an https URL without a user", "for example https://siem.example.com/exhibit; http only to this machine")
		}
	}
	if d.has(at+".header") && (s.URL == "" || !fieldName.MatchString(s.Header.Name) || s.Header.Value.IsZero()) {
		d.fail(at+".header", "header goes with url, and needs a name and where its value is", "for example {name: Authorization, prefix: 'Bearer ', value: {file: /etc/exhibit/siem.token}}")
	}
	if s.Syslog != "" {
		network, _, err := Syslog{Address: s.Syslog}.Split()
		if err != nil || !slices.Contains([]string{"tcp", "tls"}, network) {
			d.fail(at+".syslog", "syslog must be tcp://host:601 or tls://host:6514", "over udp events get lost and nobody knows")
		}
	}
	if s.CA != "" && s.File != "" {
		d.fail(at+".ca", "ca goes with url or syslog", "")
	}
	if _, err := s.Begin(); err != nil {
		d.fail(at+".from", "from must be a date or a time (RFC 3339)", "for example from: 2026-11-01; without it all of the log is delivered")
	}
}
