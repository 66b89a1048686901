package sink

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/alert"
)

// post posts batches.
type post struct{ *alert.Poster }

// HTTP returns a delivery that posts each batch to url as JSON Lines
// (application/x-ndjson), with the position of its last record as
// Idempotency-Key. Any 2xx takes it. Config, unless nil, says whom to believe, and
// header, unless nil, proves who the gateway is.
func HTTP(url string, config *tls.Config, header func() (name, value string, err error)) Delivery {
	return post{alert.NewPoster(url, config, header)}
}

// Deliver implements Delivery.
func (p post) Deliver(ctx context.Context, events []Event) error {
	return p.Post(ctx, "application/x-ndjson", events[len(events)-1].Pos.String(), joined(events))
}

func joined(events []Event) []byte {
	var b bytes.Buffer
	for _, e := range events {
		b.Write(e.Line)
	}
	return b.Bytes()
}

// syslog writes batches to a collector.
type syslog struct{ *alert.Collector }

// Syslog returns a delivery that writes each event as a message of RFC 5424, over
// tcp or tls: a connection for each batch, which is taken when the other side has
// read it to its end.
func Syslog(network, address string, config *tls.Config) (Delivery, error) {
	if network != "tcp" && network != "tls" {
		return nil, fmt.Errorf("syslog over %s loses messages and nobody knows: want tcp or tls", network)
	}
	c, err := alert.NewCollector(network, address, config)
	if err != nil {
		return nil, err
	}
	return syslog{c}, nil
}

// Deliver implements Delivery.
func (s syslog) Deliver(ctx context.Context, events []Event) error {
	messages := make([]string, len(events))
	for i, e := range events {
		var err error
		messages[i], err = s.Format(alert.Message{
			ID: string(e.Type), Time: time.UnixMicro(e.Time), Level: level(e.Type), Text: string(bytes.TrimSuffix(e.Line, []byte("\n"))),
			Params: [][2]string{{"position", e.Pos.String()}, {"gateway", e.Pos.Gateway}},
		})
		if err != nil {
			return err
		}
	}
	return s.Write(ctx, true, messages...)
}

// level is the severity of a message (RFC 5424 table 2). The event says more.
func level(t evidence.Type) uint8 {
	switch t {
	case evidence.RecordingGap:
		return 2 // critical
	case evidence.Alert:
		return 4 // warning
	}
	return 6 // informational
}

// file appends to a file.
type file struct {
	name string
	read bool // its end was looked at
}

// File returns a delivery that appends events to a file as JSON Lines. The file
// is opened for each batch, so that it can be renamed at any time.
func File(name string) Delivery { return &file{name: name} }

// Deliver implements Delivery.
func (f *file) Deliver(_ context.Context, events []Event) error {
	w, err := os.OpenFile(f.name, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("opening the sink's file: %w", err)
	}
	err = f.mend(w)
	if err == nil {
		_, err = w.Write(joined(events))
	}
	if err := errors.Join(err, w.Sync(), w.Close()); err != nil {
		f.read = false
		return fmt.Errorf("writing the sink's file: %w", err)
	}
	return nil
}

// mend cuts off a line that a crash or a full disk left without its end: it was
// not delivered, and comes again.
func (f *file) mend(w *os.File) error {
	if f.read {
		return nil
	}
	end, err := w.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	at, piece := end, make([]byte, 64<<10)
	for at > 0 {
		n := min(at, int64(len(piece)))
		if _, err := w.ReadAt(piece[:n], at-n); err != nil {
			return err
		}
		if i := bytes.LastIndexByte(piece[:n], '\n'); i >= 0 {
			at = at - n + int64(i) + 1
			break
		}
		at -= n
	}
	if at < end {
		if err := w.Truncate(at); err != nil {
			return err
		}
	}
	f.read = true
	return nil
}
