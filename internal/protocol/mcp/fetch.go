package mcp

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// Fetch asks a resource's server which tools it has, for a person to review. It
// goes around the gateway's records and is for operators, on the gateway's
// machine.
func Fetch(ctx context.Context, res Resource, up protocol.Upstream) ([]*Tool, error) {
	if res.Message <= 0 {
		res.Message = DefaultMessage
	}
	var to asker = newOverHTTP(&res, up)
	if res.Command != nil {
		p, err := start(unaccounted{}, &res, slog.New(slog.DiscardHandler))
		if err != nil {
			return nil, err
		}
		defer p.stop()
		to = overPipe{p}
	}
	defer to.close()
	meta, err := introduce(ctx, to)
	if err != nil {
		return nil, err
	}
	var tools []*Tool
	cursor := ""
	for page := range maxPages {
		content := ownRequest([]byte(strconv.Itoa(page+2)), "tools/list", cursor, meta)
		m, err := to.ask(ctx, content)
		if err != nil {
			return nil, err
		}
		list, _, more, err := entriesOf("tools/list", m.result)
		if err != nil {
			return nil, err
		}
		for _, e := range list {
			tools = append(tools, e.tool)
		}
		if !more || len(tools) > maxListed {
			return tools, nil
		}
		next, _ := member(m.result, "nextCursor") // entriesOf has read it
		cursor = text(next)
	}
	return tools, nil
}

// asker asks a server one thing after the other.
type asker interface {
	ask(ctx context.Context, content []byte) (*message, error)
	close()
}

const (
	ownInitialize  = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"exhibit","version":"1"}}}`
	ownInitialized = `{"jsonrpc":"2.0","method":"notifications/initialized"}`
	ownStateless   = `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"exhibit","version":"1"}}}}`
)

// introduce begins a session, or finds that the server needs none. It returns
// the message whose metadata further ones share.
func introduce(ctx context.Context, to asker) (*message, error) {
	if _, err := to.ask(ctx, []byte(ownInitialize)); err != nil {
		var own *serverError
		if !errors.As(err, &own) {
			return nil, err
		}
		return parse([]byte(ownStateless))
	}
	if _, err := to.ask(ctx, []byte(ownInitialized)); err != nil {
		return nil, err
	}
	return parse([]byte(ownInitialize))
}

// answerIn reads the answer to a request from what comes back.
func answerIn(rep *reply, asked *message) (*message, error) {
	defer rep.close()
	for {
		e, err := rep.next()
		switch {
		case errors.Is(err, io.EOF) && asked.isNotification() && rep.status < 300:
			return nil, nil
		case errors.Is(err, io.EOF):
			return nil, &serverError{strconv.Itoa(rep.status)}
		case err != nil:
			return nil, err
		case len(e.data) == 0:
			continue
		}
		m, err := parse(e.data)
		switch {
		case err != nil && rep.status >= 300:
			return nil, &serverError{strconv.Itoa(rep.status)}
		case err != nil:
			return nil, err
		case m.fail != nil:
			code, _ := member(m.fail, "code") // an error without one is told as one
			return nil, &serverError{string(code)}
		case m.result != nil:
			return m, nil
		}
	}
}

// overHTTP asks over streamable HTTP.
type overHTTP struct {
	res     *Resource
	up      protocol.Upstream
	client  *http.Client
	session string
	version string
}

func newOverHTTP(res *Resource, up protocol.Upstream) *overHTTP {
	return &overHTTP{res: res, up: up, client: &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{TLSClientConfig: up.TLS, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			network := "tcp"
			if strings.HasPrefix(up.Address, "/") {
				network = "unix"
			}
			return new(net.Dialer).DialContext(ctx, network, up.Address)
		}},
	}}
}

func (o *overHTTP) close() { o.client.CloseIdleConnections() }

func (o *overHTTP) ask(ctx context.Context, content []byte) (*message, error) {
	m, err := parse(content)
	if err != nil {
		return nil, err
	}
	host := o.res.Host
	if host == "" {
		if host = o.up.Address; strings.HasPrefix(host, "/") {
			host = "localhost"
		}
	}
	scheme := "http://"
	if o.up.TLS != nil {
		scheme = "https://"
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, scheme+host+o.res.Base+o.res.Endpoint, bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	if err := o.fields(ctx, r.Header, m); err != nil {
		return nil, err
	}
	resp, err := o.client.Do(r) //nolint:bodyclose // answerIn closes it
	if err != nil {
		return nil, err
	}
	answer, err := answerIn(replyOf(resp, o.res.Message), m)
	if err == nil && m.method == "initialize" {
		o.session = resp.Header.Get(sessionField)
		version, _ := member(answer.result, "protocolVersion") // without one the server takes what it likes
		o.version = text(version)
	}
	return answer, err
}

func (o *overHTTP) fields(ctx context.Context, h http.Header, m *message) error {
	h.Set("Content-Type", "application/json")
	h.Set("Accept", "application/json, text/event-stream")
	if o.session != "" {
		h.Set(sessionField, o.session)
	}
	if v := m.version(); v != "" {
		h.Set("Mcp-Protocol-Version", v)
		h.Set("Mcp-Method", m.method)
	} else if o.version != "" {
		h.Set("Mcp-Protocol-Version", o.version)
	}
	switch {
	case o.up.Header != nil:
		name, value, err := o.up.Header(ctx)
		if err != nil {
			return fmt.Errorf("reading the credential: %w", err)
		}
		h.Set(name, value)
	case o.up.User != "" || o.up.Password != "":
		h.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(o.up.User+":"+o.up.Password)))
	}
	return nil
}

// overPipe asks a process.
type overPipe struct{ p *process }

func (o overPipe) close() {}

func (o overPipe) ask(ctx context.Context, content []byte) (*message, error) {
	m, err := parse(content)
	if err != nil {
		return nil, err
	}
	rep, err := o.p.packet(content, false).send(ctx)
	if err != nil {
		return nil, err
	}
	return answerIn(rep, m)
}

// unaccounted is the account of what is on no record.
type unaccounted struct{}

func (unaccounted) Note(context.Context, protocol.Note) error { return nil }
func (unaccounted) Count(int, int, int)                       {}
