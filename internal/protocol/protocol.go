// Package protocol is the contract between the path and the wire protocols.
//
// A Protocol takes an agent's connection, speaks its wire format, and turns
// what the agent asks into commands. It opens a session through the Gate, asks
// the session to Begin each command, and forwards a command's exact bytes only
// once Begin has returned an exchange that allows it: by then the decision is
// made and the record durable. It Ends every exchange before the agent sees
// the end. Nothing else about records, policy or keys is its business.
//
// prototest holds the suite that every protocol runs.
package protocol

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Protocol serves one wire protocol.
type Protocol interface {
	// Name is the protocol's name in configuration and in action ids.
	Name() string
	// Serve speaks with one agent until the connection ends or ctx is done. It
	// closes agent. Its error is for the log, not for the agent, and holds no
	// secret.
	Serve(ctx context.Context, agent net.Conn, g Gate) error
}

// Gate opens sessions. One connection may carry several credentials.
type Gate interface {
	// Open proves who the agent is, decides whether it may connect, and records
	// both. Its error is a *Refusal, to be shown to the agent. Or it is
	// ErrUnknownCertificate, when nothing was recorded: many clients show a
	// certificate that was meant for others, so ask for a token.
	Open(context.Context, Credential, Target) (Session, error)
	// Join says that this connection's peer has shown the credential of a
	// session that is open already, and is served in it. It is recorded as a
	// note of the session, from where the peer came.
	Join(context.Context, Credential, Session) error
}

// Credential is what a peer shows. Secret is never recorded.
type Credential struct {
	User     string               // whom the peer claims to be; "" is whoever the secret is of
	Secret   string               // the token it shows
	Method   string               // "token" or "certificate"
	TLS      *tls.ConnectionState // with the certificate that it shows
	Client   net.Addr
	Listener string
}

// Target is what a peer asks for.
type Target struct {
	Protocol string
	Resource string
	Database string // as the peer named it; sealed when it isn't a resource
}

// Upstream is where a session leads and the credential that the agent never
// sees.
type Upstream struct {
	Address  string // host:port, or the path of a unix socket
	Database string
	User     string
	Password string
	TLS      *tls.Config // nil is plain

	// Header makes the field that proves who the gateway is, in protocols whose
	// messages have fields: its name and value, for a request of now. Nil is
	// User and Password, if they are set.
	Header func(context.Context) (name, value string, err error)

	Direct  bool   // TLS begins at once, where the protocol would ask for it first
	Bound   bool   // the login must be bound to the TLS channel (RFC 5929)
	Version string // newest of the protocol to ask for; "" is what every server speaks
}

// Session is one agent on one upstream connection. Its methods are safe for
// concurrent use.
type Session interface {
	// ID is the position of session.start, as text.
	ID() string
	// Identity is who the session is of.
	Identity() Identity
	// Upstream is where the session leads.
	Upstream() Upstream
	// Begin decides commands that arrived together and records each with its
	// decision. When it returns, all of them are durable as the resource asks.
	// After the first refused one the rest are recorded as skipped: call it
	// with at most one pipeline segment. An error means that nothing may be
	// forwarded and the session must end; it is a *Refusal.
	Begin(context.Context, ...*evidence.Command) ([]Exchange, error)
	// May says whether policy would allow checks now, as far as that can be told
	// without a command's facts. It is not recorded: it is advice on what to show
	// an agent, and never in place of Begin.
	May(checks ...evidence.Check) bool
	// Note accounts for frames that belong to no command. It returns when the
	// record survives the process.
	Note(context.Context, Note) error
	// EndTransaction records how commands that stand or fall together ended. It
	// returns when the record survives the process, and comes after the Ends of
	// the commands and before the agent sees the end.
	EndTransaction(context.Context, Transaction) error
	// Alert asks a person to look at one of the session's commands, after its
	// Begin. It returns when the record survives the process. One of a rule is
	// recorded each minute; the others are counted in the next.
	Alert(context.Context, evidence.AlertBody) error
	// Connected records what the upstream is, once connected.
	Connected(context.Context, evidence.SessionUpstreamBody) error
	// Done is closed when the session must end (its agent was retired, its
	// grants are gone, the gateway stops); Cause then says why.
	Done() <-chan struct{}
	Cause() error
	// Close records the session's end, after the last other call has returned.
	// Exchanges that are still open end in_doubt. Later calls do nothing.
	Close(SessionEnd) error
}

// Identity is who a session is of, as its credential proved.
type Identity struct {
	Agent     string
	Principal string    // for whom the agent acts; "" is itself
	Ticket    string    // that it works on, or ""
	Expires   time.Time // of the credential; zero is never
}

// Exchange is one command on its way.
type Exchange interface {
	// Decision is what policy said. When its effect isn't Allow, or Skipped is
	// true, the command has ended already.
	Decision() *evidence.Decision
	Skipped() bool
	// Position is that of the command's intent: its id.
	Position() evidence.Position
	// Observe digests and counts content that streams as part of the command.
	Observe(evidence.Direction, []byte) error
	// Keep records content that streams as part of the command, so that it can
	// be read again: pieces of its streams, before they go on. Towards the
	// upstream it returns when the record is as durable as the command's own,
	// towards the agent when it survives the process. Observe is still owed the
	// bytes that they came in.
	Keep(context.Context, evidence.Direction, ...evidence.Piece) error
	// End records the outcome; nil means that it survives the process. Exactly
	// once, and before the agent sees the end. An error means that the agent
	// must not be told of success.
	End(context.Context, evidence.Outcome) error
}

// Note is frames of the session itself, or of the gateway's own making.
type Note struct {
	Kind    string // "sync", "cancel", "terminate", "denial", "setup"
	Gateway bool   // the gateway made them
	Frames  int
	Bytes   int // towards the upstream
	Detail  string
}

// Transaction is how the commands from First to Last ended, as one.
type Transaction struct {
	Result      string // "commit", "rollback", "prepare" or "unknown"
	Block       bool   // between BEGIN and COMMIT, or their like
	First, Last evidence.Position
	Commands    int
	ID          string // the upstream's own id of it; "" where it isn't known
}

// SessionEnd is how a session ended.
type SessionEnd struct {
	Reason string            // "terminate", "agent closed", "upstream closed", "protocol error", ...
	Frames map[string]uint64 // by frame type, towards the upstream
	Bytes  uint64            // forwarded to the upstream, all told
	Reply  uint64            // forwarded to the agent, all told
}

// Resolver finds out, after a crash, what became of commands that nobody saw
// the end of.
type Resolver interface {
	// Resolve says what it can of the commands in doubt of one session, each at
	// most once; of those that change nothing it need not. It may wait for the
	// upstream to be done with them. Its error says that the upstream could not
	// be asked.
	Resolve(ctx context.Context, up Upstream, l *Lost, found func(of evidence.Position, r evidence.ResolutionBody) error) error
}

// Lost is what is known of a session that a crash ended.
type Lost struct {
	Upstream evidence.SessionUpstreamBody
	// Commands that no ended transaction covers, in order: the last ones, when
	// Cut. Those with the outcome InDoubt want to be resolved.
	Commands []LostCommand
	Cut      bool
}

// LostCommand is one of them. An open one has the outcome InDoubt.
type LostCommand struct {
	Position evidence.Position
	Verb     string
	Parse    evidence.Parse
	Checks   []evidence.Check
	Outcome  evidence.OutcomeClass
}

// Refusal is an error to show to an agent. Kind says what went wrong so that
// each protocol can spell it its own way.
type Refusal struct {
	Kind   error  // one of the Err values below
	Reason string // one sentence, for the agent; names no secret
	Hint   string // what to do about it
}

func (r *Refusal) Error() string { return r.Reason }
func (r *Refusal) Unwrap() error { return r.Kind }

// The kinds of refusal.
var (
	ErrAuthentication = errors.New("authentication failed")
	ErrDenied         = errors.New("refused by policy")
	ErrTooMany        = errors.New("too many sessions")
	ErrUnrecordable   = errors.New("the record cannot be written")
	ErrUnavailable    = errors.New("not available")
)

// ErrUnknownCertificate means that a client certificate is of a key that nobody
// enrolled.
var ErrUnknownCertificate = errors.New("the client certificate is of no enrolled key")
