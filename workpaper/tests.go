package workpaper

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// State is how a test came out. A test over nothing isn't a pass.
type State string

// The states of a test.
const (
	Pass         State = "pass"
	Fail         State = "fail"
	NotTested    State = "not_tested"    // an input is missing; Note says which
	NoOccurrence State = "no_occurrence" // the control did not need to operate
)

// Test is one control test over the whole of its population.
type Test struct {
	ID         string      `json:"id"`
	Title      string      `json:"title"`
	State      State       `json:"state"`
	Of         string      `json:"of"` // what the population is
	Population uint64      `json:"population"`
	Failed     uint64      `json:"failed"`               // exceptions, all of them
	Exceptions []Exception `json:"exceptions,omitempty"` // the first MaxExceptions, in log order
	Note       string      `json:"note,omitempty"`

	all    *uint64 // exceptions of all tests of a fold
	placed int     // exceptions that have their context, if it is known
}

// Exception is a record that a test stumbled over, with what its head says
// where that is at hand.
type Exception struct {
	Position string `json:"position,omitempty"`
	At       string `json:"at,omitempty"`
	Type     string `json:"type,omitempty"`
	Agent    string `json:"agent,omitempty"`
	Resource string `json:"resource,omitempty"`
	Session  string `json:"session,omitempty"`
	Text     string `json:"text"`
}

// MaxExceptions is how many exceptions a test lists. All are counted.
const MaxExceptions = 1000

// Except adds an exception.
func (t *Test) Except(at evidence.Position, format string, args ...any) {
	t.Failed++
	if t.all != nil {
		*t.all++
	}
	if len(t.Exceptions) < MaxExceptions {
		t.Exceptions = append(t.Exceptions, Exception{Position: at.String(), Text: fmt.Sprintf(format, args...)})
	}
}

// place gives new exceptions the context of their records. What is no record of
// head has it as stated.
func (t *Test) place(head func(position string) *evidence.Head) {
	for ; t.placed < len(t.Exceptions); t.placed++ {
		e := &t.Exceptions[t.placed]
		if h := head(e.Position); h != nil {
			e.At, e.Type, e.Agent, e.Resource, e.Session = FormatTime(h.Time), string(h.Type), h.Agent, h.Resource, h.Session.String()
		}
	}
}

// Conclude sets the state from population and exceptions, unless the test
// couldn't be made.
func (t *Test) Conclude() {
	switch {
	case t.Failed > 0:
		t.State = Fail
	case t.State == NotTested:
	case t.Population == 0:
		t.State = NoOccurrence
	default:
		t.State = Pass
	}
}

// WriteTests writes tests as JSON lines.
func WriteTests(w io.Writer, tests []*Test) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	for _, t := range tests {
		if err := e.Encode(t); err != nil {
			return fmt.Errorf("writing test %s: %w", t.ID, err)
		}
	}
	return nil
}

// tests are the control tests of a fold. The fields are in the order in which
// they are reported.
type tests struct {
	bodies, sequence, scope, boot                     Test
	pairing, sessionPairing, writeAhead, bytes        Test
	transactions, resolutions                         Test
	attribution, connection, totals                   Test
	registered, owner, authentication, credential     Test
	change, policyCited, grantCited, afterRevoke, lag Test
	approvals, approvalUse, limits, acks, detected    Test
	enforce, denials, liveness, gap, digests          Test
	opened                                            Test
	imports, leavers, privileges, bypass, tickets     Test
	config                                            Test
	principal, encrypted, keyAge, unused              Test
	heard, readers                                    Test

	disposalEarly, disposalHeld, disposalApproved, disposalGap Test
}

func (t *tests) all() []*Test {
	return []*Test{
		&t.bodies, &t.sequence, &t.scope, &t.boot, &t.pairing, &t.sessionPairing, &t.writeAhead, &t.transactions, &t.resolutions, &t.bytes, &t.attribution, &t.connection,
		&t.totals, &t.registered, &t.owner, &t.authentication, &t.credential, &t.change, &t.policyCited, &t.grantCited,
		&t.approvals, &t.approvalUse, &t.limits, &t.afterRevoke, &t.lag, &t.detected, &t.acks, &t.enforce, &t.denials, &t.liveness, &t.gap, &t.digests,
		&t.principal, &t.encrypted, &t.keyAge, &t.unused, &t.heard, &t.readers, &t.opened,
		&t.disposalEarly, &t.disposalHeld, &t.disposalApproved, &t.disposalGap,
		&t.imports, &t.leavers, &t.privileges, &t.bypass, &t.tickets, &t.config,
	}
}

func newTests() *tests {
	return &tests{
		bodies:   Test{ID: "record.body", Of: "records", Title: "Every record has the body that its type asks for"},
		sequence: Test{ID: "record.sequence", Of: "records", Title: "Positions follow each other without a hole"},
		scope:    Test{ID: "record.ordinal", Of: "records", Title: "Ordinals within sessions and boots have no hole"},
		boot:     Test{ID: "gateway.boots", Of: "boots", Title: "Every boot begins with gateway.start, which names the last record before it"},

		pairing:        Test{ID: "command.pairing", Of: "commands", Title: "Every command ended exactly once, or is open at the end of the range"},
		sessionPairing: Test{ID: "session.pairing", Of: "sessions", Title: "Every session ended exactly once, or is open at the end of the range"},
		writeAhead:     Test{ID: "command.order", Of: "commands", Title: "Every outcome is one that a command can have, in the boot that saw it"},
		transactions:   Test{ID: "transaction.end", Of: "ends of transactions", Title: "Every end of a transaction names commands of its session that had ended, and none twice"},
		resolutions:    Test{ID: "command.resolution", Of: "resolutions", Title: "Every resolution is of a command that was in doubt"},
		bytes:          Test{ID: "session.bytes", Of: "ended sessions", Title: "Bytes forwarded to the upstream are those of recorded frames"},

		attribution: Test{ID: "session.attribution", Of: "records of sessions", Title: "Every record of a session is of its agent and resource"},
		connection:  Test{ID: "session.upstream", Of: "upstream connections", Title: "No upstream connection served two sessions at once"},
		totals:      Test{ID: "session.totals", Of: "ended sessions", Title: "Counts in session.end are those of the session's records"},

		registered:     Test{ID: "agent.registered", Of: "sessions", Title: "Every session is of an agent that was registered and in service"},
		owner:          Test{ID: "agent.owner", Of: "agents", Title: "Every agent has a named owner, and every session the owner of its time"},
		authentication: Test{ID: "authn.cited", Of: "sessions", Title: "Every session rests on a successful authentication of its agent"},
		credential:     Test{ID: "authn.credential", Of: "successful authentications", Title: "Every success rests on an enrolled key, unrevoked and within its time"},

		change:      Test{ID: "change.valid", Of: "control records", Title: "Every change of rights was one that the registry admits"},
		policyCited: Test{ID: "decision.policy", Of: "decisions", Title: "Every decision cites the policy in force at its position"},
		grantCited:  Test{ID: "decision.grants", Of: "allowed decisions with checks", Title: "What was allowed cites grants of that agent that stood at that position and time"},
		afterRevoke: Test{ID: "access.revoked", Of: "revocations, retirements and suspensions", Title: "Nothing was allowed after a revocation, retirement or suspension"},
		lag:         Test{ID: "access.lag", Of: "sessions open when their agent was retired or suspended", Title: "Sessions of a retired or suspended agent ended within two seconds"},

		approvals:   Test{ID: "change.approved", Of: "grants and policies that needed two people", Title: "Grants and policies were approved by another person before they took effect"},
		approvalUse: Test{ID: "approval.used", Of: "commands that people approved", Title: "What people approved was used once, by the command that they approved"},
		limits:      Test{ID: "decision.limits", Of: "commands under a limit of their number", Title: "Limits on the commands of an agent held, and refused nothing before they were reached"},
		detected:    Test{ID: "alert.raised", Of: "causes for an alert", Title: "Alerts were raised where the rules ask for them, and nowhere else"},
		acks:        Test{ID: "alert.acknowledged", Of: "acknowledgements", Title: "Every acknowledgement is of an alert"},

		enforce:  Test{ID: "decision.enforced", Of: "sessions", Title: "Decisions were enforced, not only observed"},
		denials:  Test{ID: "decision.denials", Of: "refusals", Title: "What was refused ended with its refusal, and did not reach the upstream"},
		liveness: Test{ID: "gateway.liveness", Of: "records", Title: "While the gateway ran, it was never silent for longer than its heartbeat"},
		gap:      Test{ID: "gateway.gaps", Of: "boots", Title: "Nothing passed unrecorded (recording.gap)"},
		digests:  Test{ID: "gateway.digests", Of: "boots", Title: "Policy and configuration that a boot ran with are recorded changes"},
		opened:   Test{ID: "evidence.purpose", Of: "openings of sealed parts", Title: "What was sealed was opened for a named reader and a purpose"},

		principal: Test{ID: "session.principal", Of: "sessions", Title: "Every session says on whose behalf its agent acts"},
		encrypted: Test{ID: "session.encrypted", Of: "connections", Title: "Connections of agents and to systems were encrypted, or did not leave the machine"},
		keyAge:    Test{ID: "credential.age", Of: "keys that were used", Title: "No key was used for longer than 400 days after it was enrolled"},
		unused:    Test{ID: "grant.unused", Of: "grants that stood for 90 days of the range, up to its end", Title: "No grant stands that was not used for 90 days"},
		heard:     Test{ID: "alert.heard", Of: "alerts raised seven days before the end or earlier", Title: "People looked at alerts within seven days"},
		readers:   Test{ID: "evidence.readers", Of: "reads and exports of evidence", Title: "Every reading of evidence says who read, and what"},

		disposalEarly:    Test{ID: "retention.early", Of: "disposals", Title: "No block was disposed of before the retention of the configuration in force had ended"},
		disposalHeld:     Test{ID: "retention.held", Of: "disposals", Title: "Nothing was disposed of under a legal hold"},
		disposalApproved: Test{ID: "retention.approved", Of: "disposals that needed two people", Title: "What was disposed of was what another person had approved"},
		disposalGap:      Test{ID: "retention.segments", Of: "disposals", Title: "Disposals account for every block, one after another: none went unnamed"},

		imports:    Test{ID: "import.digest", Of: "imports", Title: "Every import is the one that its digest names, with as many rows as it says"},
		leavers:    Test{ID: "import.people", Of: "leavers", Title: "Access of people who left was removed in time", State: NotTested, Note: "Leaver population: not provided"},
		privileges: Test{ID: "import.privileges", Of: "agents on resources whose account was asked about", Title: "Who may only read goes through an account that can only read", State: NotTested, Note: "Effective privilege: gateway policy only"},
		bypass:     Test{ID: "import.connections", Of: "upstream connections and requests", Title: "Nothing went around the gateway", State: NotTested, Note: "Bypass: untested"},
		tickets:    Test{ID: "import.tickets", Of: "tickets cited, with their uses up to an import", Title: "Tickets that access and changes cite exist, were approved and open when they were used, and name the same people", State: NotTested, Note: notCorroborated},
		config:     Test{ID: "import.config", Of: "differences between imports of a server's configuration", Title: "Changes of how upstreams let people in were made under a ticket", State: NotTested, Note: "Configuration of upstreams: no two imports to compare"},
	}
}

// TestTable is the tests as a table, their exceptions counted.
func TestTable(tests []*Test) Table {
	t := Table{Name: "tests", Columns: columns("id:n", "title", "state:n", "population:#", "of", "exceptions:#", "note")}
	for _, c := range tests {
		t.Rows = append(t.Rows, []string{c.ID, c.Title, string(c.State), count(c.Population), c.Of, count(c.Failed), c.Note})
	}
	return t
}
