package workpaper

// The catalogue says which tests evidence which criterion. It is a table and
// nothing else: what a test does is in the file of its population, what came of
// it in the matrix. Criteria are named by their numbers in the AICPA's Trust
// Services Criteria, and described in our own words.

// Criterion is what an auditor reports on.
type Criterion struct {
	ID    string
	About string
	Left  string // what the entity shows by other means
}

// Artifact is what an auditor asks for: a population or a listing of the pack.
type Artifact struct {
	ID    string
	About string
	File  string // in the pack, without extension; "" while there is none
}

// Control is something that the entity does with the gateway, in a sentence
// that tests can contradict.
type Control struct {
	ID       string
	About    string
	Artifact string
	Criteria []string
	NIST     []string // SP 800-53 revision 5
	ISO      []string // ISO/IEC 27001:2022, annex A
	Tests    []string // those of a fold
	Checks   []string // those that a verifier makes besides
	// Absent says why nothing tests it. A control has either this or tests.
	Absent string
	// Left is what a pass doesn't say, for the entity to show.
	Left string
}

// Why a control has no test.
const (
	notInUse  = "not in use: this version records nothing of it"
	elsewhere = "outside the gateway: the entity's own"
)

// Criteria returns the criteria of the matrix, in the order of their numbers.
func Criteria() []Criterion {
	return []Criterion{
		{"CC1.3", "Somebody answers for everything that acts", "the organisation's own lines of reporting"},
		{"CC2.1", "What controls rest on is complete and accurate information", "information that the gateway doesn't record"},
		{"CC4.1", "Controls are watched while they operate", "management's own evaluations"},
		{"CC5.1", "Controls are chosen so that no one person can undo them", "the choice of controls for the entity's risks"},
		{"CC5.2", "General controls over technology are in place", "policy documents and their upkeep"},
		{"CC6.1", "Logical access is restricted to who should have it", "which systems are in scope; encryption at rest"},
		{"CC6.2", "Who gets access is registered and authorised first, and loses it in time", "accuracy of the directory of people"},
		{"CC6.3", "Access follows roles, least privilege and separated duties", "whether the design of the roles makes sense"},
		{"CC6.4", "Physical access is restricted", "all of it"},
		{"CC6.5", "Data on assets that are disposed of can't be read", "all but the evidence itself"},
		{"CC6.6", "Access from outside the boundary is kept to what is meant", "firewalls, and ways to systems other than the gateway's resources"},
		{"CC6.7", "Information is protected while it moves", "channels other than the gateway's"},
		{"CC6.8", "Unauthorised software is kept out or noticed", "malware on endpoints and servers"},
		{"CC7.1", "Changes of configuration and new weaknesses are noticed", "scans for vulnerabilities"},
		{"CC7.2", "Operation is watched for what is out of the ordinary", "systems other than the gateway's resources"},
		{"CC7.3", "What is noticed is evaluated", "the plan for incidents and its rehearsal"},
		{"CC7.4", "Incidents are answered", "the plan for incidents and its rehearsal"},
		{"CC7.5", "Operation recovers from incidents", "recovery of the entity's systems"},
		{"CC8.1", "Changes are authorised, tested and approved", "changes of applications and of the systems behind the gateway"},
		{"A1.2", "The system is kept running", "capacity; tests of restoring from backups"},
		{"C1.1", "Confidential information is identified and protected", "classification of data"},
		{"C1.2", "Confidential information is disposed of", "disposal of data in the systems behind the gateway"},
		{"P4", "Personal information is used, kept and disposed of as promised", "notices, consents and periods"},
		{"P6", "Personal information is disclosed as promised", "notices, consents and agreements"},
		{"PI1.2", "Inputs are complete, accurate and who they claim to be from", "content of what agents submit"},
		{"PI1.3", "Processing does what was asked, and says so when it can't", "correctness of the business logic"},
		{"PI1.4", "Outputs are complete and accurate, and go where they should", "correctness of the business logic"},
		{"PI1.5", "What is stored is what was processed", "storage in the systems behind the gateway"},
	}
}

// Artifacts returns what auditors ask for, in the order of their numbers.
func Artifacts() []Artifact {
	return []Artifact{
		{"E1", "Inventory of agents", "pop/" + agentsTable},
		{"E2", "Credentials", "pop/" + credentialsTable},
		{"E3", "Authentication", "pop/" + authnTable},
		{"E4", "Delegation: on whose behalf", "pop/" + sessionsTable},
		{"E5", "Provisioning and its approvals", "pop/" + grantsTable},
		{"E6", "Listing of access", "listings/access@closing"},
		{"E7", "Least privilege: granted against used", "pop/" + usedTable},
		{"E8", "Reviews of access", ""},
		{"E9", "Leavers and retired agents", "pop/" + agentsTable},
		{"E10", "Emergency access", ""},
		{"E11", "Separation of duties", "pop/" + sodTable},
		{"E12", "Sessions", "pop/" + sessionsTable},
		{"E13", "Activity", "pop/" + commandsTable},
		{"E14", "Denied attempts", "pop/" + denialsTable},
		{"E15", "Masking", ""},
		{"E16", "Changes of policy, configuration and program", "pop/" + changesTable},
		{"E17", "Operation of the gateway", "pop/" + uptimeTable},
		{"E18", "Integrity and retention of the evidence", "pop/" + retentionTable},
		{"E19", "Monitoring and alerts", "pop/" + alertsTable},
		{"E20", "Incidents", ""},
		{"E21", "Bypass of the gateway", ""},
		{"E22", "Access to the evidence", "pop/" + readersTable},
	}
}

// Controls returns the controls, in the order of their artifacts. Their numbers
// are those of their artifacts, followed by two digits; they are never reused.
func Controls() []Control {
	return []Control{
		{ID: "EX-101", Artifact: "E1", About: "Agents are registered by a person before they reach a system, and stay on record when they are retired",
			Criteria: []string{"CC6.1", "CC6.2"}, NIST: []string{"AC-2", "IA-4", "IA-9"}, ISO: []string{"5.16"},
			Tests: []string{"agent.registered", "change.valid"},
			Left:  "that the agents registered are those that the entity knows of"},
		{ID: "EX-102", Artifact: "E1", About: "Every agent has a named person who answers for it",
			Criteria: []string{"CC1.3", "CC6.2"}, NIST: []string{"AC-2"}, ISO: []string{"5.16", "5.2"},
			Tests: []string{"agent.owner"},
			Left:  "that owners know and accept what they own"},

		{ID: "EX-201", Artifact: "E2", About: "Credentials of agents are enrolled by a person, are of one agent, count within their time only, and not once revoked",
			Criteria: []string{"CC6.1", "CC6.2"}, NIST: []string{"IA-4", "IA-5"}, ISO: []string{"5.17", "8.5"},
			Tests: []string{"authn.credential", "access.revoked"},
			Left:  "keeping of private keys where agents run"},

		{ID: "EX-202", Artifact: "E2", About: "Keys are replaced in time, so that none is used for years",
			Criteria: []string{"CC6.1"}, NIST: []string{"IA-5"}, ISO: []string{"5.17"},
			Tests: []string{"credential.age"},
			Left:  "shorter lives that the entity promises"},

		{ID: "EX-301", Artifact: "E3", About: "Nobody is let in who hasn't proved an identity, and failed attempts are on record too",
			Criteria: []string{"CC6.1", "CC6.6"}, NIST: []string{"AU-2", "IA-9"}, ISO: []string{"8.5"},
			Tests: []string{"authn.cited", "authn.credential"},
			Left:  "connections that ended before they said who they are"},

		{ID: "EX-401", Artifact: "E4", About: "Every session says which person answers for it, as of its start, and on whose behalf it acts",
			Criteria: []string{"CC6.1", "PI1.2"}, NIST: []string{"AC-2", "AU-3"}, ISO: []string{"5.16", "8.15"},
			Tests: []string{"session.principal", "agent.owner"},
			Left:  "what orchestrators say of further actors behind an agent"},

		{ID: "EX-501", Artifact: "E5", About: "Access is asked for by one person and approved by another who may, before it counts and no wider than asked",
			Criteria: []string{"CC6.2", "CC6.3"}, NIST: []string{"AC-2", "AC-3", "AC-5"}, ISO: []string{"5.15", "5.18"},
			Tests: []string{"change.approved"},
			Left:  "content of the tickets that requests cite"},
		{ID: "EX-502", Artifact: "E5", About: "Rights change by recorded events alone, each of which could follow from those before it",
			Criteria: []string{"CC6.2", "CC6.3"}, NIST: []string{"AC-2", "AC-3", "AU-12"}, ISO: []string{"5.18"},
			Tests: []string{"change.valid"}, Checks: []string{"log.control"},
			Left: "rights that are given in the systems behind the gateway"},
		{ID: "EX-503", Artifact: "E5", About: "What access and changes cite as their ticket is one that was open and approved by then, and says the same of who asked",
			Criteria: []string{"CC6.2", "CC6.3", "CC8.1"}, NIST: []string{"AC-2", "CM-3"}, ISO: []string{"5.18", "8.32"},
			Tests: []string{"import.tickets", "import.digest"},
			Left:  "what tickets ask for in words"},

		{ID: "EX-601", Artifact: "E6", About: "What an agent may do follows from its grants and the policy in force alone, at any moment",
			Criteria: []string{"CC5.2", "CC6.1", "CC6.3"}, NIST: []string{"AC-3", "AC-6"}, ISO: []string{"5.15", "8.3"},
			Tests: []string{"decision.policy", "decision.grants"}, Checks: []string{"decision.replay"},
			Left: "whether the roles are designed well"},
		{ID: "EX-602", Artifact: "E6", About: "Accounts of the gateway in the systems behind it have no wider rights than its policies give",
			Criteria: []string{"CC6.1", "CC6.3"}, NIST: []string{"AC-6"}, ISO: []string{"8.2"},
			Tests: []string{"import.privileges"},
			Left:  "rights of all other accounts of those systems"},

		{ID: "EX-701", Artifact: "E7", About: "Every use of a right is counted to the grant that gave it, and rights that aren't used show",
			Criteria: []string{"CC6.3"}, NIST: []string{"AC-6(7)", "AC-6(9)"}, ISO: []string{"5.18", "8.2"},
			Tests: []string{"decision.grants"},
			Left:  "whether what is used is needed"},
		{ID: "EX-702", Artifact: "E7", About: "Rights that aren't used are taken away",
			Criteria: []string{"CC6.3"}, NIST: []string{"AC-6(7)"}, ISO: []string{"5.18", "8.2"},
			Tests: []string{"grant.unused"},
			Left:  "reasons to keep a right that isn't used"},

		{ID: "EX-801", Artifact: "E8", About: "Rights are reviewed at intervals, all of them, and what the review takes away is gone in time",
			Criteria: []string{"CC4.1", "CC6.2", "CC6.3"}, NIST: []string{"AC-2", "AC-6(7)"}, ISO: []string{"5.18"},
			Absent: notInUse, Left: "reviews, made of the listings of access and of what was used"},

		{ID: "EX-901", Artifact: "E9", About: "An agent that is retired, a credential that is revoked and a grant that is removed let nothing more through",
			Criteria: []string{"CC6.2", "CC6.3"}, NIST: []string{"AC-2(3)", "AC-3"}, ISO: []string{"5.18"},
			Tests: []string{"access.revoked", "access.lag"},
			Left:  "deciding in time that an agent is retired"},
		{ID: "EX-902", Artifact: "E9", About: "When people leave, what they own is handed on or loses its access in time",
			Criteria: []string{"CC6.2", "CC6.3"}, NIST: []string{"AC-2(3)", "PS-4"}, ISO: []string{"5.18", "6.5"},
			Tests: []string{"import.people", "import.digest"},
			Left:  "accuracy of the directory of people"},

		{ID: "EX-1001", Artifact: "E10", About: "Emergency access has a reason, a second person, an end and a review afterwards",
			Criteria: []string{"CC6.1", "CC6.3", "CC7.4"}, NIST: []string{"AC-2", "AC-6"}, ISO: []string{"8.2"},
			Absent: notInUse, Left: "emergency access to systems past the gateway"},

		{ID: "EX-1101", Artifact: "E11", About: "Nobody approves what they asked for, and where two people are needed one alone changes no rights",
			Criteria: []string{"CC5.1", "CC5.2", "CC6.3"}, NIST: []string{"AC-5"}, ISO: []string{"5.3"},
			Tests: []string{"change.approved"},
			Left:  "people with more than one account; who administers the gateway's machine"},

		{ID: "EX-1201", Artifact: "E12", About: "Every session is on record from its start to its end, with totals that its own records give",
			Criteria: []string{"CC6.1", "CC7.2"}, NIST: []string{"AU-2", "AU-3", "AU-12", "AU-14"}, ISO: []string{"8.15"},
			Tests: []string{"session.pairing", "session.totals"},
			Left:  "access that doesn't lead through the gateway"},
		{ID: "EX-1202", Artifact: "E12", About: "A connection to a system serves one session of one agent at a time",
			Criteria: []string{"CC6.1", "PI1.2"}, NIST: []string{"AU-10", "IA-9"}, ISO: []string{"8.15"},
			Tests: []string{"session.attribution", "session.upstream"},
			Left:  "poolers between the gateway and a system"},
		{ID: "EX-1203", Artifact: "E12", About: "What agents send and receive is encrypted wherever it crosses a network",
			Criteria: []string{"CC6.1", "CC6.6", "CC6.7"}, NIST: []string{"SC-8"}, ISO: []string{"8.20", "8.24"},
			Tests: []string{"session.encrypted"},
			Left:  "certificates and their authorities"},
		{ID: "EX-1301", Artifact: "E13", About: "Every command is decided and recorded before it is passed on, and ends with one outcome",
			Criteria: []string{"CC6.1", "CC7.2", "PI1.3"}, NIST: []string{"AU-3", "AU-10", "AU-12", "AU-14"}, ISO: []string{"8.15"},
			Tests: []string{"command.pairing", "command.order"}, Checks: []string{"decision.facts"},
			Left: "what triggers and functions do beyond the words of a statement"},
		{ID: "EX-1302", Artifact: "E13", About: "What stood and what was undone is on record, and what was in doubt says so until somebody knows",
			Criteria: []string{"PI1.3", "PI1.5"}, NIST: []string{"AU-3"}, ISO: []string{"8.15"},
			Tests: []string{"transaction.end", "command.resolution"},
			Left:  "correctness of what the commands meant to do"},
		{ID: "EX-1303", Artifact: "E13", About: "Every byte that was passed on belongs to a record",
			Criteria: []string{"CC7.2", "PI1.4"}, NIST: []string{"AU-12"}, ISO: []string{"8.15"},
			Tests: []string{"session.bytes", "session.totals"},
			Left:  "content of what was allowed though not understood"},

		{ID: "EX-1401", Artifact: "E14", About: "What isn't allowed is refused, does not reach the system, and is on record",
			Criteria: []string{"CC6.1", "CC7.2", "CC7.3"}, NIST: []string{"AC-3", "AU-2"}, ISO: []string{"8.3", "8.15"},
			Tests: []string{"decision.enforced", "decision.denials"},
			Left:  "that a system itself refuses who comes past the gateway"},
		{ID: "EX-1402", Artifact: "E14", About: "Limits on what an agent may do in an hour, and single commands that people must approve, hold",
			Criteria: []string{"CC6.1", "CC6.3"}, NIST: []string{"AC-3", "AC-6"}, ISO: []string{"8.3"},
			Tests: []string{"decision.limits", "approval.used"},
			Left:  "choice of the limits"},

		{ID: "EX-1501", Artifact: "E15", About: "Confidential values are masked before an agent sees them",
			Criteria: []string{"C1.1", "CC6.1", "CC6.7", "P4", "P6"}, NIST: []string{"AC-4", "SI-12"}, ISO: []string{"8.11", "8.12"},
			Absent: notInUse, Left: "classification of data; views and column privileges of the systems"},

		{ID: "EX-1601", Artifact: "E16", About: "Policies are proposed by one person and approved by another before they are in force",
			Criteria: []string{"CC5.2", "CC8.1"}, NIST: []string{"CM-3", "CM-5"}, ISO: []string{"8.32"},
			Tests: []string{"change.approved"},
			Left:  "the organisation's own rules for changes"},
		{ID: "EX-1602", Artifact: "E16", About: "Decisions are made by policies and configurations that recorded changes brought in force, and no others",
			Criteria: []string{"CC6.8", "CC7.1", "CC8.1"}, NIST: []string{"CM-3", "CM-6", "SI-7"}, ISO: []string{"8.9", "8.32"},
			Tests: []string{"decision.policy", "gateway.digests"}, Checks: []string{"decision.replay"},
			Left: "the machine and the operating system under the gateway"},
		{ID: "EX-1603", Artifact: "E16", About: "How the databases behind the gateway let people in, and what they log of them, changes under a ticket",
			Criteria: []string{"CC6.1", "CC7.1", "CC8.1"}, NIST: []string{"CM-3", "CM-6"}, ISO: []string{"8.9", "8.32"},
			Tests: []string{"import.config", "import.digest"},
			Left:  "whether the tickets ask for these changes; what was changed and changed back between two imports; settings of one role or database"},

		{ID: "EX-1701", Artifact: "E17", About: "Whenever the gateway ran it said so, and each of its boots names the one before",
			Criteria: []string{"A1.2", "CC7.1", "CC7.2"}, NIST: []string{"AU-5(4)", "AU-12"}, ISO: []string{"8.15", "8.16"},
			Tests: []string{"gateway.boots", "gateway.liveness"},
			Left:  "how the entity works while the gateway is down"},
		{ID: "EX-1702", Artifact: "E17", About: "Where no record can be written nothing is passed on, and what passed unrecorded is admitted",
			Criteria: []string{"CC6.1", "CC7.2"}, NIST: []string{"AU-5(4)"}, ISO: []string{"8.15"},
			Tests: []string{"gateway.gaps"},
			Left:  "the decision on what a gap put at risk"},

		{ID: "EX-1801", Artifact: "E18", About: "Records are complete and unaltered: none is missing between two, and each is what was committed to",
			Criteria: []string{"CC2.1", "CC6.1", "CC7.2"}, NIST: []string{"AU-9(3)", "AU-10", "AU-12"}, ISO: []string{"5.28", "5.33", "8.15"},
			Tests:  []string{"record.body", "record.sequence", "record.ordinal"},
			Checks: []string{"log.leaf", "log.block", "log.follows", "log.tree", "record.commitment", "record.sealed"},
			Left:   "custody of the log's key"},
		{ID: "EX-1802", Artifact: "E18", About: "The log can be held against what others saw of it, and signed by the keys that its own records put in force",
			Criteria: []string{"CC2.1", "CC7.2"}, NIST: []string{"AU-9(2)", "AU-9(3)", "AU-10"}, ISO: []string{"5.28", "8.15", "8.17"},
			Checks: []string{"log.checkpoint", "log.keys", "log.witnesses", "log.known", "log.stamps"},
			Absent: "made by the verifier alone: a pack can't vouch for its own log",
			Left:   "witnesses outside the operator's hands; checkpoints that the auditor keeps"},
		{ID: "EX-1803", Artifact: "E18", About: "A pack is all of its period, and its tables are what its records say",
			Criteria: []string{"CC2.1", "CC4.1"}, NIST: []string{"AU-9(3)", "CA-7"}, ISO: []string{"5.28", "5.33"},
			Checks: []string{"pack.files", "pack.manifest", "pack.digests", "pack.range", "pack.context", "pack.tables"},
			Absent: "made by the verifier alone: a pack can't vouch for itself",
			Left:   "that the period and the gateway are those in scope"},
		{ID: "EX-1804", Artifact: "E18", About: "Evidence is kept for as long as is promised, and disposed of on record",
			Criteria: []string{"C1.2", "CC2.1", "CC6.5", "P4"}, NIST: []string{"AU-11", "SI-12"}, ISO: []string{"5.33", "8.10"},
			Tests: []string{"retention.early", "retention.held", "retention.approved", "retention.segments"}, Checks: []string{"log.disposed", "log.follows"},
			Left: "a lock on the archive's files: it is a folder, and has none; copies of packs and backups; whether the periods are those promised"},

		{ID: "EX-1901", Artifact: "E19", About: "What asks for attention raises an alert, by rules that anyone can make again from the records",
			Criteria: []string{"CC4.1", "CC7.2", "CC7.3"}, NIST: []string{"AU-6", "CA-7", "SI-4"}, ISO: []string{"8.16"},
			Tests: []string{"alert.raised"},
			Left:  "choice of what else to watch for"},
		{ID: "EX-1902", Artifact: "E19", About: "People look at alerts and say what they found",
			Criteria: []string{"CC4.1", "CC7.3"}, NIST: []string{"AU-6", "IR-4"}, ISO: []string{"5.25", "8.16"},
			Tests: []string{"alert.heard", "alert.acknowledged"},
			Left:  "judgement of the people who looked"},

		{ID: "EX-2001", Artifact: "E20", About: "Incidents are contained in time, understood and closed",
			Criteria: []string{"CC7.3", "CC7.4", "CC7.5"}, NIST: []string{"IR-4"}, ISO: []string{"5.24", "5.25", "5.26"},
			Absent: notInUse, Left: "incidents, in the entity's own records, which alerts cite"},

		{ID: "EX-2101", Artifact: "E21", About: "Agents reach systems through the gateway alone",
			Criteria: []string{"CC6.1", "CC6.6", "CC7.2"}, NIST: []string{"AC-4", "AU-6"}, ISO: []string{"8.16", "8.20"},
			Tests: []string{"import.connections", "import.digest"},
			Left:  "host rules and network policies of the systems"},

		{ID: "EX-2201", Artifact: "E22", About: "Whoever reads or exports evidence is on record",
			Criteria: []string{"C1.1", "CC6.1", "P6"}, NIST: []string{"AU-9(4)", "AU-12"}, ISO: []string{"5.33", "8.15"},
			Tests: []string{"evidence.readers", "evidence.purpose"},
			Left:  "copies of packs that were handed out"},

		{ID: "EX-9001", About: "Physical access to the gateway's machines is restricted",
			Criteria: []string{"CC6.4"}, NIST: []string{"PE-3"}, ISO: []string{"7.2"},
			Absent: elsewhere, Left: "all of it"},
		{ID: "EX-9002", About: "Machines and media are disposed of so that nothing on them can be read",
			Criteria: []string{"CC6.5"}, NIST: []string{"MP-6"}, ISO: []string{"7.14"},
			Absent: elsewhere, Left: "all of it"},
	}
}

// TestCatalogue returns every control test of a fold, as it is before the first
// record: ids, titles and what the populations are.
func TestCatalogue() []*Test { return newTests().all() }

// PopulationFile is the file of a pack that the population of a test is in, or
// is counted in: records that no table has a row for are in totals.
func PopulationFile(test string) string {
	if table, ok := populationOf[test]; ok {
		return "pop/" + table + ".csv"
	}
	return ""
}

var populationOf = map[string]string{
	"record.body": totalsTable, "record.sequence": totalsTable, "record.ordinal": totalsTable,
	"retention.early": retentionTable, "retention.held": retentionTable, "retention.approved": retentionTable, "retention.segments": retentionTable,
	"gateway.boots": uptimeTable, "gateway.liveness": uptimeTable, "gateway.gaps": uptimeTable, "gateway.digests": uptimeTable,
	"command.pairing": commandsTable, "command.order": commandsTable, "command.resolution": resolutionsTable, "transaction.end": transactionsTable,
	"session.pairing": sessionsTable, "session.bytes": sessionsTable, "session.attribution": totalsTable, "session.upstream": sessionsTable, "session.totals": sessionsTable,
	"agent.registered": sessionsTable, "agent.owner": agentsTable,
	"authn.cited": sessionsTable, "authn.credential": authnTable,
	"change.valid": totalsTable, "change.approved": approvalsTable, "approval.used": approvalsTable,
	"decision.policy": totalsTable, "decision.grants": usedTable, "decision.limits": commandsTable, "decision.enforced": sessionsTable, "decision.denials": denialsTable,
	"access.revoked": grantsTable, "access.lag": sessionsTable,
	"alert.raised": alertsTable, "alert.acknowledged": alertsTable, "alert.heard": alertsTable,
	"session.principal": sessionsTable, "session.encrypted": sessionsTable, "credential.age": credentialsTable, "grant.unused": usedTable,
	"import.privileges": usedTable, "import.people": terminationsTable, "import.connections": reconTable, "import.digest": totalsTable, "import.tickets": ticketsTable, "import.config": upstreamConfigTable,
	"evidence.readers": readersTable, "evidence.purpose": readersTable,
}
