package connect

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Request codes of the packets that may come before a StartupMessage, and the
// version of the protocol (PostgreSQL documentation, "Message Formats").
const (
	cancelRequest = 1234<<16 | 5678
	sslRequest    = 1234<<16 | 5679
	gssRequest    = 1234<<16 | 5680
	protocolMajor = 3
)

const (
	// maxStartup bounds a startup packet, less its length (PostgreSQL's
	// MAX_STARTUP_PACKET_LENGTH), and maxAnswer what comes before a session.
	maxStartup = 10000
	maxAnswer  = 64 << 10

	startupTimeout = 15 * time.Second // for the client to say what it wants
	loginTimeout   = time.Minute      // and for the gateway to give it
)

// SQLSTATEs of what is said here (PostgreSQL documentation, appendix "PostgreSQL
// Error Codes").
const (
	codeAuthorization = "28000" // invalid_authorization_specification
	codePassword      = "28P01" // invalid_password
	codeUnreachable   = "08006" // connection_failure
	codeProtocol      = "08P01" // protocol_violation
	codeUnsupported   = "0A000" // feature_not_supported
)

// postgres is a local end for PostgreSQL. It speaks the startup on either side,
// since that is where the credential is, and nothing after it:
//
//	client                    here                        gateway
//	SSLRequest, GSSENCRequest →  'N'
//	StartupMessage            →  the agent's, the resource's →
//	                             ← AuthenticationCleartextPassword
//	                             PasswordMessage, a fresh token →
//	        ← AuthenticationOk, or an error, as it came ←
//	        ↔ bytes ↔
//
// A CancelRequest passes as it came: its key is the gateway's.
type postgres struct {
	agent, resource string
	gateway         *gateway
	tokens          *tokens
	log             *slog.Logger
}

// What ends a connection about which there is nothing to tell its client.
var (
	errTold = errors.New("refused")
	errLeft = errors.New("the client left")
)

func (p *postgres) serve(ctx context.Context, l net.Listener) error {
	return each(ctx, l, p.log, p.handle)
}

// handle serves one client, to the end.
func (p *postgres) handle(ctx context.Context, client net.Conn) {
	defer client.Close()
	gateway, err := p.open(ctx, client)
	switch {
	case err == nil && gateway != nil:
		defer gateway.Close()
		relay(ctx, client, gateway)
	case err == nil, errors.Is(err, errLeft), errors.Is(err, errTold), ctx.Err() != nil:
	default:
		p.log.Warn("a client was not connected", "error", err)
		p.tell(client, err)
	}
}

// open takes a client up to its session, whose connection it returns; of a
// client that wanted something else there is none.
func (p *postgres) open(ctx context.Context, client net.Conn) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, startupTimeout+loginTimeout)
	defer cancel()
	hurry := context.AfterFunc(ctx, func() { _ = client.SetDeadline(time.Unix(1, 0)) })
	defer hurry()
	if err := client.SetReadDeadline(time.Now().Add(startupTimeout)); err != nil {
		return nil, err
	}
	packet, err := greet(client)
	if err != nil {
		return nil, err
	}
	if codeOf(packet) == cancelRequest {
		return nil, p.cancel(ctx, packet)
	}
	packet, err = addressed(packet, p.agent, p.resource)
	if err != nil {
		return nil, err
	}
	gateway, err := p.login(ctx, client, packet)
	if err != nil {
		return nil, err
	}
	return gateway, client.SetDeadline(time.Time{})
}

// greet reads up to the packet that says what the client wants.
func greet(client net.Conn) ([]byte, error) {
	for range 3 { // SSLRequest and GSSENCRequest may come before it, each once
		packet, err := readPacket(client)
		if err != nil {
			return nil, err
		}
		switch codeOf(packet) {
		case sslRequest, gssRequest:
			if _, err := client.Write([]byte{'N'}); err != nil {
				return nil, err
			}
		default:
			return packet, nil
		}
	}
	return nil, misspoken("a startup packet was expected")
}

// readPacket reads one packet of the startup, and not a byte more. A client that
// sends less may just have looked whether somebody answers.
func readPacket(r io.Reader) ([]byte, error) {
	head := make([]byte, 8)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, errLeft
	}
	size := binary.BigEndian.Uint32(head)
	if head[0] == 0x16 { // RFC 8446 section 5.1: a handshake
		return nil, &Error{
			Reason: "the client begins with TLS, which this end adds by itself",
			Hint:   "connect with sslmode=disable", kind: errProtocol,
		}
	}
	if size < 8 || size > 4+maxStartup {
		return nil, misspoken("a startup packet of %d bytes", size)
	}
	packet := append(head, make([]byte, size-8)...)
	if _, err := io.ReadFull(r, packet[8:]); err != nil {
		return nil, errLeft
	}
	return packet, nil
}

func codeOf(packet []byte) uint32 { return binary.BigEndian.Uint32(packet[4:]) }

// addressed returns a StartupMessage with the agent as its user and the resource
// as its database. All else stays as it is, in its order.
func addressed(packet []byte, agent, resource string) ([]byte, error) {
	if code := codeOf(packet); code>>16 != protocolMajor {
		return nil, &Error{
			Reason: fmt.Sprintf("unsupported frontend protocol %d.%d", code>>16, code&0xffff),
			Hint:   "connect with a client that speaks PostgreSQL protocol 3", kind: errUnsupported,
		}
	}
	b := append(make([]byte, 4), packet[4:8]...)
	b = appendPair(appendPair(b, "user", agent), "database", resource)
	rest := packet[8:]
	for {
		name, after, ok := bytes.Cut(rest, []byte{0})
		if len(name) == 0 {
			if !ok || len(after) != 0 {
				return nil, misspoken("a malformed startup packet")
			}
			break
		}
		value, after, ok := bytes.Cut(after, []byte{0})
		if !ok {
			return nil, misspoken("a malformed startup packet")
		}
		if rest = after; string(name) != "user" && string(name) != "database" {
			b = appendPair(b, string(name), string(value))
		}
	}
	b = append(b, 0)
	binary.BigEndian.PutUint32(b, uint32(len(b)))
	return b, nil
}

func appendPair(b []byte, name, value string) []byte {
	return append(append(append(append(b, name...), 0), value...), 0)
}

// login opens a session at the gateway. What that says before there is one, a
// refusal most of all, reaches the client as it came.
func (p *postgres) login(ctx context.Context, client net.Conn, startup []byte) (_ net.Conn, err error) {
	ctx, cancel := context.WithTimeout(ctx, loginTimeout)
	defer cancel()
	gateway, err := p.gateway.dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { gateway.Close() })
	defer func() {
		if !stop() && err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			gateway.Close()
		}
	}()
	if _, err := gateway.Write(startup); err != nil {
		return nil, unreachable(err)
	}
	return gateway, p.converse(ctx, client, gateway)
}

// converse is the part of a login that the gateway leads.
func (p *postgres) converse(ctx context.Context, client, gateway net.Conn) error {
	var token string
	for {
		message, err := readMessage(gateway)
		if err != nil {
			return unreachable(err)
		}
		switch kind, auth := message[0], authentication(message); {
		case auth == pgproto3.AuthTypeCleartextPassword && token == "":
			if token, err = p.tokens.get(ctx); err != nil {
				return err
			}
			if err := sendPassword(gateway, token); err != nil {
				return unreachable(err)
			}
		case auth == pgproto3.AuthTypeOk:
			return send(client, message)
		case kind == 'E':
			p.heed(message, token)
			return errors.Join(errTold, send(client, message))
		case kind == 'N' || kind == 'v': // a notice, or which version is spoken
			if err := send(client, message); err != nil {
				return err
			}
		default:
			return failure("is it a gateway's listener for PostgreSQL that exhibit connect was given?", "the gateway asks for something other than a token")
		}
	}
}

// heed notes a refusal that a fresh token might not get.
func (p *postgres) heed(message []byte, token string) {
	var e pgproto3.ErrorResponse
	if e.Decode(message[5:]) == nil && e.Code == codePassword {
		p.tokens.refused(token)
	}
}

// authentication is what a message asks for; -1 when it asks for nothing.
func authentication(message []byte) int64 {
	if message[0] != 'R' || len(message) < 9 {
		return -1
	}
	return int64(binary.BigEndian.Uint32(message[5:]))
}

// readMessage reads one message of a gateway, and not a byte more.
func readMessage(r io.Reader) ([]byte, error) {
	head := make([]byte, 5)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size < 4 || size > maxAnswer {
		return nil, errors.New("what answers speaks no PostgreSQL")
	}
	message := append(head, make([]byte, size-4)...)
	_, err := io.ReadFull(r, message[5:])
	return message, err
}

func send(c net.Conn, message []byte) error {
	_, err := c.Write(message)
	return err
}

func sendPassword(c net.Conn, token string) error {
	b, err := (&pgproto3.PasswordMessage{Password: token}).Encode(nil)
	if err != nil {
		return err
	}
	return send(c, b)
}

// cancel passes a CancelRequest on. The gateway closes its connection once it
// has acted, and so will the client's be closed.
func (p *postgres) cancel(ctx context.Context, packet []byte) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	gateway, err := p.gateway.dial(ctx)
	if err != nil {
		return err
	}
	defer gateway.Close()
	defer context.AfterFunc(ctx, func() { gateway.Close() })()
	if err := send(gateway, packet); err != nil {
		return unreachable(err)
	}
	_, _ = io.Copy(io.Discard, gateway) // there is no answer, only an end
	return nil
}

func misspoken(format string, args ...any) error {
	return &Error{Reason: "the client speaks no PostgreSQL protocol 3: " + fmt.Sprintf(format, args...), kind: errProtocol}
}

// tell tells a client why there is no session, as a server would.
func (p *postgres) tell(client net.Conn, err error) {
	r := pgproto3.ErrorResponse{Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: stateOf(err), Message: err.Error()}
	var e *Error
	if errors.As(err, &e) {
		r.Hint = e.Hint
	}
	b, encodeErr := r.Encode(nil)
	if encodeErr != nil {
		return
	}
	_ = client.SetDeadline(time.Now().Add(time.Second)) // it may have gone
	_ = send(client, b)
}

// stateOf is the SQLSTATE of an error.
func stateOf(err error) string {
	switch {
	case errors.Is(err, errProtocol):
		return codeProtocol
	case errors.Is(err, errUnsupported):
		return codeUnsupported
	case errors.Is(err, errNoToken):
		return codeAuthorization
	}
	return codeUnreachable
}
