package push

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/alert"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// Account is where a library's API is and what proves to it who asks.
type Account struct {
	Base     string                      // URL of the API
	Token    func() (string, error)      // read for each request
	Client   *http.Client                // nil is one of its own
	Progress func(done, total int64)     // of the file that is being uploaded; may be nil
	Pause    func(d time.Duration) error // waits; nil is the clock's
}

// Refusal is an answer of a library other than 2xx.
type Refusal struct {
	Status  int
	Message string // the library's, made visible
	Hint    string // what to do
}

// Error says what the library answered.
func (r *Refusal) Error() string {
	if r.Message == "" {
		return fmt.Sprintf("the library answered %d", r.Status)
	}
	return fmt.Sprintf("the library answered %d: %s", r.Status, r.Message)
}

// hints are what to do about an answer.
var hints = map[int]string{
	http.StatusUnauthorized:          "the token is missing, expired or of another region: make a new one",
	http.StatusForbidden:             "the token may not do this: give it the permission to upload evidence",
	http.StatusNotFound:              "there is nothing with that id: look it up in the library's address bar or API",
	http.StatusPreconditionFailed:    "somebody must accept the library's terms before its API is used",
	http.StatusRequestEntityTooLarge: "the file is too large for the library: make packs of shorter periods",
	http.StatusTooManyRequests:       "the library wants to be asked less: try again later",
}

// client speaks with one API.
type client struct {
	Account
	scheme string // of Authorization; "" is none
}

// Bounds on retries and answers.
const (
	attempts    = 5
	firstWait   = time.Second
	longestWait = 2 * time.Minute
	maxAnswer   = 4 << 20
	patience    = 10 * time.Minute // of one request: a file takes long on a slow line
)

func newClient(a Account, scheme string) (*client, error) {
	u, err := url.Parse(a.Base)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && !(u.Scheme == "http" && loopback(u.Hostname())) {
		return nil, errors.New("the address of the API must be an https URL without a user")
	}
	a.Base = strings.TrimSuffix(a.Base, "/")
	if a.Client == nil {
		a.Client = &http.Client{}
	}
	c := *a.Client
	c.Timeout = patience
	// A redirect would take the token, or the file, to a host that nobody named.
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	a.Client = &c
	return &client{a, scheme}, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// request is one that can be sent again. Safe says that twice is as good as once.
type request struct {
	method, path string
	kind         string                               // Content-Type
	body         func() (io.ReadCloser, int64, error) // nil is none
	safe         bool
}

// send sends a request until it is answered, and decodes the answer into out. An
// answer of 429 is no answer: nothing was taken. So is a 503, and so are failures
// of the line for who is safe; for others those are unclear.
func (c *client) send(ctx context.Context, r request, out any) error {
	wait := firstWait
	for n := 1; ; n++ {
		err := c.once(ctx, r, out)
		var refused *retry
		switch {
		case err == nil:
			return nil
		case !errors.As(err, &refused) || ctx.Err() != nil:
			return err
		case n == attempts:
			return refused.error
		}
		pause := max(wait, refused.after)
		if pause > longestWait {
			return fmt.Errorf("%w: it wants to be asked again in %v", refused.error, pause)
		}
		if err := c.pause(ctx, pause); err != nil {
			return err
		}
		wait *= 2
	}
}

// retry is a failure after which the same may be tried again.
type retry struct {
	error
	after time.Duration
}

func (r *retry) Unwrap() error { return r.error }

func (c *client) pause(ctx context.Context, d time.Duration) error {
	if c.Pause != nil {
		return c.Pause(d)
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func (c *client) once(ctx context.Context, r request, out any) error {
	var body io.ReadCloser
	var size int64
	if r.body != nil {
		var err error
		if body, size, err = r.body(); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, r.method, c.Base+r.path, body)
	if err != nil {
		return errors.New("the address of the API cannot be used")
	}
	req.ContentLength = size
	if r.kind != "" {
		req.Header.Set("Content-Type", r.kind)
	}
	req.Header.Set("Accept", "application/json")
	token, err := c.Token()
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", strings.TrimSpace(c.scheme+" "+token))
	resp, err := c.Client.Do(req)
	if err != nil {
		err = errors.Unwrap(err) // without the URL, which has ids
		var dial *net.OpError
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case r.safe, errors.As(err, &dial) && dial.Op == "dial": // nothing was sent
			return &retry{err, 0}
		}
		return fmt.Errorf("%w: %w", ErrUnclear, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode == http.StatusServiceUnavailable:
		return &retry{c.refusal(resp.StatusCode, answer, token), alert.RetryAfter(resp.Header)}
	case resp.StatusCode >= 500 && r.safe:
		return &retry{c.refusal(resp.StatusCode, answer, token), alert.RetryAfter(resp.Header)}
	case resp.StatusCode >= 500:
		return fmt.Errorf("%w: %w", ErrUnclear, c.refusal(resp.StatusCode, answer, token))
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return c.refusal(resp.StatusCode, answer, token)
	case out == nil:
		return nil
	case err != nil:
		return fmt.Errorf("%w: its answer broke off", ErrUnclear)
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return errors.New("the library's answer is not the JSON that its API promises")
	}
	return nil
}

// refusal reads what a library says is wrong. Some repeat what they were sent.
func (c *client) refusal(status int, answer []byte, token string) *Refusal {
	r := &Refusal{Status: status, Hint: hints[status]}
	var said struct {
		Message any `json:"message"`
		Error   any `json:"error"`
	}
	if json.Unmarshal(answer, &said) != nil {
		return r
	}
	for _, v := range []any{said.Message, said.Error} {
		if text, ok := v.(string); ok && text != "" {
			for _, secret := range append(strings.Fields(token), token) {
				if secret != "" {
					text = strings.ReplaceAll(text, secret, "(token)")
				}
			}
			r.Message = workpaper.Visible(text[:min(len(text), 300)])
			break
		}
	}
	return r
}

func asJSON(v any) func() (io.ReadCloser, int64, error) {
	return func() (io.ReadCloser, int64, error) {
		b, err := json.Marshal(v)
		return io.NopCloser(bytes.NewReader(b)), int64(len(b)), err
	}
}

// form is a multipart form with fields and a file, which is read as it is sent.
func (c *client) form(f *File, fields ...string) (kind string, body func() (io.ReadCloser, int64, error), err error) {
	var head bytes.Buffer
	w := multipart.NewWriter(&head)
	for i := 0; i < len(fields); i += 2 {
		if err := w.WriteField(fields[i], fields[i+1]); err != nil {
			return "", nil, err
		}
	}
	if _, err := w.CreatePart(textproto.MIMEHeader{"Content-Disposition": {disposition("file", f.Name)}, "Content-Type": {f.Type}}); err != nil {
		return "", nil, err
	}
	before := head.Len()
	if err := w.Close(); err != nil {
		return "", nil, err
	}
	all := head.Bytes()
	return w.FormDataContentType(), func() (io.ReadCloser, int64, error) {
		r, err := f.Open()
		if err != nil {
			return nil, 0, fmt.Errorf("reading the pack: %w", err)
		}
		counted := &progress{r: io.LimitReader(r, f.Bytes), total: f.Bytes, tell: c.Progress}
		return struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(all[:before]), counted, bytes.NewReader(all[before:])), r}, int64(len(all)) + f.Bytes, nil
	}, nil
}

// progress tells how much of a file was sent.
type progress struct {
	r           io.Reader
	done, total int64
	tell        func(done, total int64)
}

func (p *progress) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	if p.done += int64(n); p.tell != nil {
		p.tell(p.done, p.total)
	}
	return n, err
}
