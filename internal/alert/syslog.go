package alert

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/leodido/go-syslog/v4/rfc5424"
)

// syslog writes messages of RFC 5424.
type syslog struct {
	network, address string
	tls              *tls.Config
	host             string
}

// Syslog returns a sink that writes RFC 5424 messages: over udp (RFC 5426), tcp
// (octet-counted, RFC 6587), tls (RFC 5425), or to a unix datagram socket such
// as /dev/log. A connection lasts for one message: alerts are few.
func Syslog(network, address string, config *tls.Config) (Sink, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("asking for the host's name: %w", err)
	}
	switch network {
	case "udp", "tcp", "tls", "unix":
		return &syslog{network, address, config, host}, nil
	}
	return nil, fmt.Errorf("syslog over %q is not known: want udp, tcp, tls or unix", network)
}

// facility is "log audit" (RFC 5424 table 1).
const facility = 13

// level is the severity of a syslog message (RFC 5424 table 2).
func level(severity string) uint8 {
	switch severity {
	case "high":
		return 2 // critical
	case "medium":
		return 4 // warning
	}
	return 5 // notice
}

// Send implements Sink.
func (s *syslog) Send(ctx context.Context, a Alert) error {
	text, err := s.message(a)
	if err != nil {
		return err
	}
	conn, err := s.dial(ctx)
	if err != nil {
		return fmt.Errorf("connecting to syslog: %w", err)
	}
	if end, ok := ctx.Deadline(); ok {
		err = conn.SetDeadline(end)
	}
	if s.network == "tcp" || s.network == "tls" {
		text = strconv.Itoa(len(text)) + " " + text
	}
	if err == nil {
		_, err = conn.Write([]byte(text))
	}
	if err := errors.Join(err, conn.Close()); err != nil {
		return fmt.Errorf("writing to syslog: %w", err)
	}
	return nil
}

func (s *syslog) dial(ctx context.Context) (net.Conn, error) {
	switch s.network {
	case "tls":
		d := tls.Dialer{Config: s.tls}
		return d.DialContext(ctx, "tcp", s.address)
	case "unix":
		var d net.Dialer
		return d.DialContext(ctx, "unixgram", s.address)
	}
	var d net.Dialer
	return d.DialContext(ctx, s.network, s.address)
}

// message makes one line of an alert, whatever an agent put into its text.
func (s *syslog) message(a Alert) (string, error) {
	m := &rfc5424.SyslogMessage{}
	m.SetVersion(1)
	m.SetPriority(facility*8 + level(a.Severity))
	m.SetTimestamp(a.Time.UTC().Format("2006-01-02T15:04:05.000000Z07:00"))
	m.SetHostname(s.host)
	m.SetAppname("exhibit")
	m.SetProcID(strconv.Itoa(os.Getpid()))
	m.SetMsgID("alert")
	const id = "exhibit@32473" // RFC 5612: a number for documentation, which nobody else sends
	for _, p := range [][2]string{{"position", a.Position}, {"gateway", a.Gateway}, {"rule", a.Rule}, {"severity", a.Severity},
		{"agent", a.Agent}, {"resource", a.Resource}, {"session", a.Session}, {"trigger", a.Trigger}} {
		if p[1] != "" {
			m.SetParameter(id, p[0], p[1])
		}
	}
	m.SetMessage(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, a.Text))
	text, err := m.String()
	if err != nil {
		return "", fmt.Errorf("making a syslog message: %w", err)
	}
	return text, nil
}
