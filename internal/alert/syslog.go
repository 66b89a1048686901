package alert

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/leodido/go-syslog/v4/rfc5424"
)

// Collector takes messages of RFC 5424.
type Collector struct {
	network, address string
	tls              *tls.Config
	host             string
}

// NewCollector returns a collector over udp (RFC 5426), tcp (octet-counted, RFC
// 6587), tls (RFC 5425), or at a unix datagram socket such as /dev/log.
func NewCollector(network, address string, config *tls.Config) (*Collector, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("asking for the host's name: %w", err)
	}
	switch network {
	case "udp", "tcp", "tls", "unix":
		return &Collector{network, address, config, host}, nil
	}
	return nil, fmt.Errorf("syslog over %q is not known: want udp, tcp, tls or unix", network)
}

// Message is what a collector is told.
type Message struct {
	ID     string // kind of message
	Time   time.Time
	Level  uint8       // severity (RFC 5424 table 2)
	Params [][2]string // structured data; those with an empty value are left out
	Text   string      // on one line
}

// facility is "log audit" (RFC 5424 table 1).
const facility = 13

// Format makes one line of a message, whatever an agent put into its text.
func (c *Collector) Format(msg Message) (string, error) {
	m := &rfc5424.SyslogMessage{}
	m.SetVersion(1)
	m.SetPriority(facility*8 + msg.Level)
	m.SetTimestamp(msg.Time.UTC().Format("2006-01-02T15:04:05.000000Z07:00"))
	m.SetHostname(c.host)
	m.SetAppname("exhibit")
	m.SetProcID(strconv.Itoa(os.Getpid()))
	m.SetMsgID(msg.ID)
	const id = "exhibit@32473" // RFC 5612: a number for documentation, which nobody else sends
	for _, p := range msg.Params {
		if p[1] != "" {
			m.SetParameter(id, p[0], p[1])
		}
	}
	m.SetMessage(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, msg.Text))
	text, err := m.String()
	if err != nil {
		return "", fmt.Errorf("making a syslog message: %w", err)
	}
	return text, nil
}

// Write sends messages over a connection of their own. Syslog acknowledges
// nothing. With read set, which tcp and tls can, Write tells the other side that
// this is the end and waits until it ends the connection in good order: then it
// has read everything. Otherwise what it returns nil for may be lost on the way.
func (c *Collector) Write(ctx context.Context, read bool, messages ...string) error {
	conn, err := c.dial(ctx)
	if err != nil {
		return fmt.Errorf("connecting to syslog: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // it fails then
	defer stop()
	w := bufio.NewWriter(conn)
	for _, text := range messages {
		if c.network == "tcp" || c.network == "tls" {
			text = strconv.Itoa(len(text)) + " " + text
		}
		if _, err = w.WriteString(text); err == nil && c.network != "tcp" && c.network != "tls" {
			err = w.Flush() // a datagram each
		}
		if err != nil {
			break
		}
	}
	if err == nil {
		err = w.Flush()
	}
	if err == nil && read {
		err = readToEnd(conn)
	}
	if err := errors.Join(err, conn.Close()); err != nil {
		return fmt.Errorf("writing to syslog: %w", err)
	}
	return nil
}

func readToEnd(conn net.Conn) error {
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.New("datagrams are not acknowledged")
	}
	if err := half.CloseWrite(); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, conn); err != nil {
		return fmt.Errorf("waiting until it has been read: %w", err)
	}
	return nil
}

func (c *Collector) dial(ctx context.Context) (net.Conn, error) {
	switch c.network {
	case "tls":
		d := tls.Dialer{Config: c.tls}
		return d.DialContext(ctx, "tcp", c.address)
	case "unix":
		var d net.Dialer
		return d.DialContext(ctx, "unixgram", c.address)
	}
	var d net.Dialer
	return d.DialContext(ctx, c.network, c.address)
}

// syslog writes alerts.
type syslog struct{ *Collector }

// Syslog returns a sink that writes RFC 5424 messages to a collector. A
// connection lasts for one message: alerts are few.
func Syslog(network, address string, config *tls.Config) (Sink, error) {
	c, err := NewCollector(network, address, config)
	if err != nil {
		return nil, err
	}
	return syslog{c}, nil
}

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
func (s syslog) Send(ctx context.Context, a Alert) error {
	text, err := s.Format(Message{ID: "alert", Time: a.Time, Level: level(a.Severity), Text: a.Text, Params: [][2]string{
		{"position", a.Position}, {"gateway", a.Gateway}, {"rule", a.Rule}, {"severity", a.Severity},
		{"agent", a.Agent}, {"resource", a.Resource}, {"session", a.Session}, {"trigger", a.Trigger}}})
	if err != nil {
		return err
	}
	return s.Write(ctx, false, text)
}
