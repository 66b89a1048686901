package alert

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// webhook posts alerts as JSON.
type webhook struct {
	url    string
	client *http.Client
	header func() (name, value string, err error)
}

// Webhook returns a sink that posts each alert as a JSON object to url, with its
// position as Idempotency-Key. Any 2xx takes it; redirects are not followed.
// Header, unless nil, proves who the gateway is.
func Webhook(url string, header func() (name, value string, err error)) Sink {
	return &webhook{url: url, header: header, client: &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Send implements Sink.
func (w *webhook) Send(ctx context.Context, a Alert) error {
	body, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("encoding an alert: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(body))
	if err != nil {
		return errors.New("the webhook's URL cannot be used")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", a.Position)
	if w.header != nil {
		name, value, err := w.header()
		if err != nil {
			return err
		}
		req.Header.Set(name, value)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return errors.Unwrap(err) // without the URL, which may hold a secret
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // so that the connection is used again; what it says is of no interest
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("the webhook answered %d", resp.StatusCode)
	}
	return nil
}
