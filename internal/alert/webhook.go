package alert

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// Poster posts to one URL, which may hold a secret: no error shows it.
type Poster struct {
	url    string
	header func() (name, value string, err error)
	client *http.Client
}

// Refused is an answer other than 2xx.
type Refused struct {
	Status int
	After  time.Duration // that the other side wants to be left alone; 0 is nothing said
}

// Error says what the answer was.
func (r *Refused) Error() string { return fmt.Sprintf("the webhook answered %d", r.Status) }

// NewPoster returns one that follows no redirects. Header, unless nil, proves
// who the gateway is; config, unless nil, says whom to believe.
func NewPoster(url string, config *tls.Config, header func() (name, value string, err error)) *Poster {
	p := &Poster{url: url, header: header, client: &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if config != nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.TLSClientConfig = config
		p.client.Transport = t
	}
	return p
}

// Post returns nil once the other side has taken body, which any 2xx says. Key
// is the same for all tries of the same.
func (p *Poster) Post(ctx context.Context, contentType, key string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(body))
	if err != nil {
		return errors.New("the webhook's URL cannot be used")
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Idempotency-Key", key)
	if p.header != nil {
		name, value, err := p.header()
		if err != nil {
			return err
		}
		req.Header.Set(name, value)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return errors.Unwrap(err) // without the URL, which may hold a secret
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // so that the connection is used again; what it says is of no interest
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return &Refused{Status: resp.StatusCode, After: RetryAfter(resp.Header)}
	}
	return nil
}

// RetryAfter reads a Retry-After field in seconds (RFC 9110 section 10.2.3); 0
// without one.
func RetryAfter(h http.Header) time.Duration {
	n, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || n < 0 {
		return 0
	}
	return time.Duration(min(n, 3600)) * time.Second
}

// webhook posts alerts as JSON.
type webhook struct{ *Poster }

// Webhook returns a sink that posts each alert as a JSON object to url, with its
// position as Idempotency-Key. Any 2xx takes it; redirects are not followed.
// Header, unless nil, proves who the gateway is.
func Webhook(url string, header func() (name, value string, err error)) Sink {
	return webhook{NewPoster(url, nil, header)}
}

// Send implements Sink.
func (w webhook) Send(ctx context.Context, a Alert) error {
	body, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("encoding an alert: %w", err)
	}
	return w.Post(ctx, "application/json", a.Position, body)
}
