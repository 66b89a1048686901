package config

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Alerts says who is told of alerts, beside the log.
type Alerts struct {
	Webhooks []Webhook `yaml:"webhooks"`
	Syslog   []Syslog  `yaml:"syslog"`
}

// Webhook is posted each alert as JSON.
type Webhook struct {
	URL    string         `yaml:"url"`
	Header UpstreamHeader `yaml:"header"` // that proves who the gateway is
	Least  string         `yaml:"least"`  // severity: low, medium or high; default: all
}

// Syslog is written each alert (RFC 5424).
type Syslog struct {
	Address string `yaml:"address"` // udp://host:514, tcp://host:601, tls://host:6514 or unix:/dev/log
	Least   string `yaml:"least"`
}

// Split returns the network of the address, and the address within it.
func (s Syslog) Split() (network, address string, err error) {
	if path, ok := strings.CutPrefix(s.Address, "unix:"); ok && strings.HasPrefix(path, "/") && len(path) <= maxSocket {
		return "unix", path, nil
	}
	u, err := url.Parse(s.Address)
	if err != nil || u.Hostname() == "" || u.Port() == "" || u.Path != "" || u.User != nil ||
		!slices.Contains([]string{"udp", "tcp", "tls"}, u.Scheme) {
		return "", "", errors.New("not an address of syslog")
	}
	return u.Scheme, u.Host, nil
}

func (c *Config) validateAlerts(d *decoder) {
	least := func(at, v string) {
		if !slices.Contains([]string{"", "low", "medium", "high"}, v) {
			d.fail(at+".least", fmt.Sprintf("there is no severity %.40q", v), "low, medium or high")
		}
	}
	for i, w := range c.Alerts.Webhooks {
		at := fmt.Sprintf("alerts.webhooks[%d]", i)
		u, err := url.Parse(w.URL)
		if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && !(u.Scheme == "http" && Local(hostPort(u))) {
			d.fail(at+".url", "url must be an https URL without a user", "for example https://hooks.example.com/exhibit; http only to this machine")
		}
		if d.has(at+".header") && (!fieldName.MatchString(w.Header.Name) || w.Header.Value.IsZero()) {
			d.fail(at+".header", "header needs a name and where its value is", "for example {name: Authorization, prefix: 'Bearer ', value: {file: /etc/exhibit/hook.token}}")
		}
		least(at, w.Least)
	}
	for i, s := range c.Alerts.Syslog {
		at := fmt.Sprintf("alerts.syslog[%d]", i)
		if _, _, err := s.Split(); err != nil {
			d.fail(at+".address", "address must be udp://host:514, tcp://host:601, tls://host:6514 or unix:/dev/log", "over udp messages can get lost; the log has every alert")
		}
		least(at, s.Least)
	}
}
