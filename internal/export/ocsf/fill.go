package ocsf

import (
	"cmp"
	"fmt"
	"strconv"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// What each type of record says beside what all have. Long texts (policies,
// configurations, catalogues) stay in the log: events have their digests.

func (k *maker) gateway(version string) {
	k.e.App = &product{Name: k.m.product.Name, Vendor: k.m.product.Vendor, Version: version, UID: k.h.Pos.Gateway}
}

func (k *maker) gatewayStart() error {
	b := body[evidence.GatewayStartBody](k)
	k.gateway(b.Version)
	if !b.Previous.IsZero() {
		k.unmapped("previous", b.Previous.String())
		if k.put("clean", b.Clean); !b.Clean {
			k.e.SeverityID = medium
		}
	}
	k.unmapped("binary", b.Binary)
	k.unmapped("config", b.Config)
	k.unmapped("policy", b.Policy)
	k.unmapped("fail_mode", b.FailMode)
	k.unmapped("host", b.Host)
	return nil
}

func (k *maker) gatewayStop() error {
	b := body[evidence.GatewayStopBody](k)
	k.gateway("")
	k.e.StatusDetail = k.text(b.Reason)
	k.put("open_sessions", b.Open)
	return nil
}

func (k *maker) logRestore() error {
	b := body[evidence.RestoreBody](k)
	k.gateway("")
	k.by(b.By)
	k.e.SeverityID = medium
	k.put("blocks", b.Blocks)
	k.put("keys", b.Keys)
	return nil
}

func (k *maker) heartbeat() error {
	b := body[evidence.HeartbeatBody](k)
	k.put("sessions", b.Sessions)
	k.put("accepted", b.Accepted)
	return nil
}

func (k *maker) timeStep() error {
	b := body[evidence.TimeStepBody](k)
	name := k.h.Pos.Gateway
	k.e.Device = &device{Name: name, UID: name, TypeID: other, Type: "Access gateway"}
	k.e.SeverityID = medium
	k.e.Message = "the wall clock was set"
	k.put("step_us", b.StepMicros)
	return nil
}

func (k *maker) gap() error {
	b := body[evidence.GapBody](k)
	k.e.SeverityID, k.e.StatusID, k.e.StatusDetail = high, failure, k.text(b.Cause)
	k.e.Message = "something passed unrecorded, or may have"
	k.sessions(b.Sessions)
	return nil
}

func (k *maker) sessions(list []evidence.Position) {
	ids := make([]string, len(list))
	for i, p := range list {
		ids[i] = p.String()
	}
	k.list("sessions", ids)
}

func (k *maker) authn() error {
	b := body[evidence.AuthnBody](k)
	e := &k.e
	e.User = agentUser(k.h.Agent)
	e.Service = &service{Name: orElse(b.Listener, k.h.Pos.Gateway)}
	e.SrcEndpoint = endpointOf(orElse(b.Client, "unknown"))
	e.AuthProto, e.AuthProtoID = orElse(b.Method, "unknown"), new(other)
	k.unmapped("protocol", b.Protocol)
	k.unmapped("credential", b.Credential)
	k.unmapped("key", b.Key)
	if k.h.Outcome != evidence.OK {
		e.StatusID, e.StatusDetail, e.SeverityID = failure, k.text(b.Failure), low
		e.ActionID, e.DispositionID = new(2), new(26) // denied, unauthorized
	}
	return nil
}

func (k *maker) sessionStart() error {
	b := body[evidence.SessionStartBody](k)
	c := &course{agent: k.h.Agent, resource: k.h.Resource, body: b}
	if !k.h.Session.IsZero() { // else it was refused
		remember(k.m.sessions, k.h.Pos, c)
	}
	k.reach(c)
	k.connect()
	k.e.Actor.Session = &session{UID: k.h.Pos.String(), Credential: b.Credential}
	k.decided(&b.Decision)
	k.checks(b.Checks)
	k.unmapped("principal_type", b.PType)
	k.unmapped("authn", b.Authn)
	k.unmapped("tls", b.TLS)
	k.unmapped("upstream_user", b.User)
	k.unmapped("enforce_mode", b.Mode)
	return nil
}

// connect is an activity that only datastores have.
func (k *maker) connect() {
	if k.e.ClassUID != datastore.uid {
		k.other("Connect")
	}
}

// other is an activity that the class has no number for.
func (k *maker) other(name string) {
	k.activity(activity{other, name})
	if k.e.API != nil {
		k.e.API.Operation = name
	}
}

func (k *maker) sessionUpstream() error {
	b := body[evidence.SessionUpstreamBody](k)
	if _, err := k.within(k.h.Session); err != nil {
		return err
	}
	k.connect()
	if b.Remote != "" {
		name := k.e.DstEndpoint.Service
		k.e.DstEndpoint = endpointOf(b.Remote)
		k.e.DstEndpoint.Service = name
	}
	k.unmapped("local", b.Local)
	k.unmapped("server", b.Server)
	k.unmapped("system", b.System)
	k.unmapped("backend_start", b.Start)
	k.unmapped("tls", b.TLS)
	k.unmapped("peer_certificate", b.Peer)
	if b.PID > 0 {
		k.put("backend_pid", b.PID)
	}
	return nil
}

func (k *maker) sessionNote() error {
	b := body[evidence.NoteBody](k)
	if _, err := k.within(k.h.Session); err != nil {
		return err
	}
	k.unmapped("kind", b.Kind)
	k.unmapped("origin", b.Origin)
	k.unmapped("detail", b.Detail)
	return nil
}

func (k *maker) sessionEnd() error {
	b := body[evidence.SessionEndBody](k)
	c, err := k.session(k.h.Session)
	if err != nil {
		return err
	}
	e := &k.e
	e.User = agentUser(c.agent)
	e.Actor = &actor{User: agentUser(c.agent)}
	e.Service = &service{Name: orElse(c.resource, "unknown")}
	e.SrcEndpoint = endpointOf(orElse(c.body.Client, "unknown"))
	e.Session = &session{UID: k.h.Session.String(), Credential: c.body.Credential, Expiration: k.text(b.Reason)}
	k.ended(k.h.Outcome)
	k.put("commands", b.Commands)
	k.put("denied", b.Denied)
	delete(k.m.sessions, k.h.Session)
	return nil
}

func (k *maker) sessionKill() error {
	b := body[evidence.KillBody](k)
	agent := cmp.Or(k.h.Agent, b.Agent)
	if agent == "" && len(b.Sessions) > 0 {
		c, err := k.session(b.Sessions[0])
		if err != nil {
			return err
		}
		agent = c.agent
	}
	k.by(b.By)
	k.e.User = agentUser(agent)
	k.e.Service = &service{Name: k.h.Pos.Gateway}
	k.e.SeverityID, k.e.StatusDetail = medium, k.text(b.Reason)
	k.e.ActionID, k.e.DispositionID = new(2), new(24) // denied, access revoked
	k.sessions(b.Sessions)
	return nil
}

func (k *maker) commandIntent() error {
	b := body[evidence.IntentBody](k)
	c, err := k.within(k.h.Session)
	if err != nil {
		return err
	}
	a := &asked{activityOf(c.body.Protocol, k.h.Verb, b.Checks), operationOf(&b), k.h.Session}
	if k.h.Outcome == "" {
		remember(k.m.commands, k.h.Pos, a)
	}
	k.asked(a)
	k.decided(&b.Decision)
	k.checks(b.Checks)
	k.unmapped("path", b.Path)
	k.unmapped("parse", string(b.Parse))
	if k.h.Outcome == "" {
		k.e.StatusID = unknown // its result has it
	}
	if k.e.API == nil && b.Text != "" {
		k.e.Query = &queryInfo{UID: k.h.Pos.String(), Text: k.text(b.Text)}
	}
	if !k.h.Of.IsZero() {
		k.unmapped("prepared_by", k.h.Of.String())
	}
	return nil
}

// asked fills in what a command is.
func (k *maker) asked(a *asked) {
	k.activity(a.activity)
	if k.e.API != nil {
		k.e.API.Operation = k.text(a.operation)
		k.e.API.Request = &request{UID: k.e.Metadata.Correlation}
	}
}

func (k *maker) commandResult() error {
	b := body[evidence.ResultBody](k)
	a, err := k.command(k.h.Of)
	if err != nil {
		return err
	}
	if _, err := k.within(k.h.Session); err != nil {
		return err
	}
	k.asked(a)
	k.ended(k.h.Outcome)
	if k.e.API != nil && k.h.Code != "" {
		k.e.API.Response = &response{Error: k.h.Code}
		if code, err := strconv.Atoi(k.h.Code); err == nil {
			k.e.API.Response = &response{Code: &code}
		}
	}
	if b.Streamed > 0 {
		k.put("streamed_bytes", b.Streamed)
	}
	delete(k.m.commands, k.h.Of)
	return nil
}

func (k *maker) commandContent() error {
	b := body[evidence.ContentBody](k)
	if _, err := k.within(k.h.Session); err != nil {
		return err
	}
	k.unmapped("of", k.h.Of.String())
	k.unmapped("to", b.To)
	k.unmapped("digest", b.Digest)
	k.put("bytes", b.Bytes)
	k.put("left_out", b.Left)
	return nil
}

func (k *maker) txEnd() error {
	b := body[evidence.TxEndBody](k)
	if _, err := k.within(k.h.Session); err != nil {
		return err
	}
	switch b.Result {
	case "rollback":
		k.e.StatusID = failure
	case "unknown":
		k.e.StatusID, k.e.SeverityID = unknown, medium
	}
	k.e.StatusDetail = k.text(b.Result)
	k.unmapped("first", b.First.String())
	k.unmapped("last", b.Last.String())
	k.unmapped("xid", b.ID)
	k.put("commands", b.Commands)
	k.put("block", b.Block)
	return nil
}

func (k *maker) resolution() error {
	b := body[evidence.ResolutionBody](k)
	a, err := k.command(k.h.Of)
	if err != nil {
		return err
	}
	if _, err := k.within(a.session); err != nil {
		return err
	}
	switch b.Result {
	case "rolled_back":
		k.e.StatusID = failure
	case "committed":
	default:
		k.e.StatusID = unknown
	}
	k.e.StatusDetail = k.text(orElse(b.Result, "unknown"))
	k.unmapped("how", b.How)
	k.unmapped("xid", b.ID)
	return nil
}

func (k *maker) agentCreate() error {
	b := body[evidence.AgentBody](k)
	k.by(b.By)
	k.e.User = agentUser(cmp.Or(k.h.Agent, b.Agent))
	k.e.User.Full = k.text(b.Name)
	k.unmapped("purpose", b.Purpose)
	k.unmapped("owner", b.Owner.ID)
	k.unmapped("backup_owner", b.Backup.ID)
	k.unmapped("team", b.Team)
	k.unmapped("env", b.Env)
	k.unmapped("model", b.Model)
	if b.Expires != 0 {
		k.put("expires", b.Expires/1000)
	}
	return nil
}

func (k *maker) agentDisable() error {
	b := body[evidence.DisableBody](k)
	k.by(b.By)
	k.e.User = agentUser(cmp.Or(k.h.Agent, b.Agent))
	k.e.StatusDetail = k.text(b.Reason)
	return nil
}

// entity is what is managed; id and name are never both empty.
func (k *maker) entity(typ, id, name string) {
	k.e.Entity = &entity{UID: orElse(id, k.h.Pos.String()), Name: k.text(name), Type: typ, TypeID: other}
}

func (k *maker) credential() error {
	b := body[evidence.CredentialBody](k)
	k.by(b.By)
	k.entity("credential", b.ID, b.Kind)
	k.unmapped("agent", b.Agent)
	k.unmapped("thumbprint", b.Thumbprint)
	k.unmapped("issuer", b.Issuer)
	k.unmapped("ticket", b.Ticket)
	k.unmapped("principal", b.Principal)
	if b.NotAfter != 0 {
		k.put("not_after", b.NotAfter/1000)
	}
	return nil
}

func (k *maker) credentialRevoke() error {
	b := body[evidence.RevokeBody](k)
	k.by(b.By)
	k.entity("credential", b.ID, "")
	k.e.Comment = k.text(b.Reason)
	return nil
}

// grant fills in a grant with its id.
func (k *maker) grant(id, agent, role, on string) {
	k.e.User = agentUser(agent)
	k.e.Privileges = []string{orElse(role, "unknown")}
	k.e.Resources = []resource{{UID: on, Name: orElse(on, "unknown"), Type: "resource"}}
	k.unmapped("grant", id)
}

func (k *maker) grantCreate() error {
	b := body[evidence.GrantBody](k)
	k.by(b.By)
	k.grant(k.h.Pos.String(), cmp.Or(b.Agent, k.h.Agent), b.Role, cmp.Or(b.Resource, k.h.Resource))
	k.e.StatusDetail = k.text(b.Reason)
	k.unmapped("ticket", b.Ticket)
	k.unmapped("renews", b.Renews)
	k.unmapped("request", b.Request)
	k.put("expires", b.Expires/1000)
	return nil
}

func (k *maker) grantRemove() error {
	b := body[evidence.RevokeBody](k)
	k.by(b.By)
	var g evidence.GrantBody
	if pos, err := evidence.ParsePosition(b.ID); err == nil {
		r, err := k.find(pos, evidence.GrantCreate)
		if err != nil {
			return err
		}
		if r != nil {
			g = decoded[evidence.GrantBody](r)
		}
	}
	k.grant(b.ID, cmp.Or(g.Agent, k.h.Agent), g.Role, cmp.Or(g.Resource, k.h.Resource))
	k.e.StatusDetail = k.text(b.Reason)
	return nil
}

func (k *maker) approvalRequest() error {
	b := body[evidence.ApprovalRequestBody](k)
	k.by(b.By)
	k.entity("approval request", k.h.Pos.String(), orElse(b.Kind, "unknown"))
	k.e.Comment = k.text(b.Reason)
	k.unmapped("digest", b.Digest)
	k.unmapped("ticket", b.Ticket)
	needs := make([]string, len(b.Needs))
	for i, n := range b.Needs {
		needs[i] = fmt.Sprintf("%d of %s", n.Count, n.Group)
	}
	k.list("needs", needs)
	switch {
	case b.Grant != nil:
		k.unmapped("agent", b.Grant.Agent)
		k.unmapped("role", b.Grant.Role)
		k.unmapped("resource", b.Grant.Resource)
	case b.Command != nil:
		k.unmapped("agent", b.Command.Agent)
		k.unmapped("resource", b.Command.Resource)
		k.unmapped("text", b.Command.Text)
		k.checks(b.Command.Checks)
	case b.Policy != nil:
		k.unmapped("before", b.Policy.Before)
	}
	return nil
}

func (k *maker) approvalDecision() error {
	b := body[evidence.ApprovalDecisionBody](k)
	k.by(b.By)
	k.entity("approval request", b.Request, orElse(b.Decision, "unknown"))
	if b.Decision == evidence.Refused || b.Decision == evidence.Withdrawn {
		k.activity(activity{4, "Delete"})
	}
	k.e.Metadata.Correlation = orElse(b.Request, k.e.Metadata.Correlation)
	k.e.Comment = k.text(b.Reason)
	k.unmapped("decision", b.Decision)
	k.unmapped("digest", b.Digest)
	k.list("groups", b.Groups)
	return nil
}

func (k *maker) approvalUse() error {
	b := body[evidence.ApprovalUseBody](k)
	k.e.Actor = &actor{User: agentUser(k.h.Agent)}
	k.entity("approval request", b.Request, "use")
	k.unmapped("digest", b.Digest)
	return nil
}

// document is a policy or a configuration that was put in force.
func (k *maker) document(typ, digest, before string) {
	k.entity(typ, digest, "")
	k.unmapped("digest", digest)
	k.unmapped("before", before)
}

func (k *maker) policyChange() error {
	b := body[evidence.PolicyBody](k)
	k.by(b.By)
	k.document("policy", b.Digest, b.Before)
	k.e.Entity.Policy = &policy{UID: k.e.Entity.UID, Type: "Cedar bundle", Version: b.Digest, Applied: true}
	k.e.Entity.TypeID = 5
	k.e.Comment = k.text(b.Reason)
	k.unmapped("request", b.Request)
	k.unmapped("rollback", b.Back)
	k.put("files", len(b.Files))
	return nil
}

func (k *maker) configChange() error {
	b := body[evidence.ConfigBody](k)
	k.by(b.By)
	k.document("configuration", b.Digest, b.Before)
	k.unmapped("separation", b.Separation)
	names := make([]string, len(b.Resources))
	for i, r := range b.Resources {
		names[i] = r.Name
	}
	k.list("resources", names)
	return nil
}

func (k *maker) logKey() error {
	b := body[evidence.LogKeyBody](k)
	k.by(b.By)
	k.entity("log key", b.New, b.Change)
	k.e.SeverityID, k.e.Comment = medium, k.text(b.Reason)
	k.unmapped("old", b.Old)
	return nil
}

func (k *maker) logHold() error {
	b := body[evidence.HoldBody](k)
	k.by(b.By)
	k.entity("legal hold", orElse(b.Hold, k.h.Pos.String()), orElse(b.Change, "unknown"))
	k.e.SeverityID, k.e.Comment = medium, k.text(b.Reason)
	k.unmapped("matter", b.Matter)
	return nil
}

func (k *maker) redaction() error {
	b := body[evidence.RedactionBody](k)
	k.by(b.By)
	k.entity("sealed parts of a session", b.Session.String(), "erased")
	k.e.SeverityID, k.e.Comment = medium, k.text(b.Basis)
	k.unmapped("request", b.Request)
	return nil
}

func (k *maker) disposal() error {
	b := body[evidence.DisposalBody](k)
	k.by(b.By)
	k.entity("blocks of the log", fmt.Sprintf("%d to %d", b.First, b.Last), "deleted")
	k.e.SeverityID, k.e.Comment = medium, k.text(b.Reason)
	k.unmapped("request", b.Request)
	k.unmapped("digest", b.Digest.String())
	k.put("blocks", b.Blocks)
	k.put("records", b.Records)
	k.put("retention_s", b.Retention)
	return nil
}

func (k *maker) stateSnapshot() error {
	b := body[evidence.SnapshotBody](k)
	k.unmapped("digest", b.Digest)
	k.put("part", b.Part)
	k.put("parts", b.Parts)
	return nil
}

func (k *maker) importSnapshot() error {
	b := body[evidence.ImportBody](k)
	k.unmapped("kind", b.Kind)
	k.unmapped("source", b.Source)
	k.unmapped("digest", b.Digest)
	k.put("count", b.Rows)
	return nil
}

func (k *maker) ownerChange() error {
	b := body[evidence.OwnerBody](k)
	k.by(b.By)
	k.entity("agent", cmp.Or(k.h.Agent, b.Agent), "")
	k.unmapped("owner", b.Owner.ID)
	k.unmapped("backup_owner", b.Backup.ID)
	k.e.StatusDetail = k.text(b.Reason)
	return nil
}

func (k *maker) person() error {
	b := body[evidence.LeaveBody](k)
	k.by(b.By)
	k.entity("person", "", b.Person)
	if b.Left != 0 {
		k.put("left", b.Left/1000)
	}
	return nil
}

func (k *maker) ownUpstream() error {
	b := body[evidence.OwnUpstreamBody](k)
	k.unmapped("purpose", b.Purpose)
	k.unmapped("local", b.Local)
	k.unmapped("remote", b.Remote)
	return nil
}

func (k *maker) reconRun() error {
	b := body[evidence.ReconBody](k)
	if b.Unexplained > 0 {
		k.e.SeverityID = high
	}
	k.unmapped("tie", b.Tie)
	k.put("from", b.From/1000)
	k.put("to", b.To/1000)
	k.put("logged", b.Logged)
	k.put("unexplained", b.Unexplained)
	k.put("missing", b.Missing)
	return nil
}

// severities of alerts.
var severities = map[string]int{"low": low, "medium": medium, "high": high}

func (k *maker) alert() error {
	b := body[evidence.AlertBody](k)
	k.e.IsAlert = true
	k.e.SeverityID, k.e.StatusID = severities[b.Severity], 1 // 0 is unknown; new
	k.finding(k.h.Pos, k.h.Time, &b)
	return nil
}

func (k *maker) finding(pos evidence.Position, t int64, b *evidence.AlertBody) {
	rule := orElse(b.Rule, "alert")
	k.e.Finding = &findingInfo{UID: pos.String(), Title: rule, Desc: k.text(b.Text), Created: t / 1000, Analytic: &analytic{Name: rule, TypeID: 1}}
	if !b.Trigger.IsZero() {
		k.e.Finding.Related = []relatedEvent{{UID: b.Trigger.String()}}
	}
}

func (k *maker) alertAck() error {
	b := body[evidence.AlertAckBody](k)
	var alert evidence.AlertBody
	var t int64
	r, err := k.find(k.h.Of, evidence.Alert)
	if err != nil {
		return err
	}
	if r != nil {
		alert, t = decoded[evidence.AlertBody](r), r.Head.Time
	}
	k.finding(k.h.Of, t, &alert)
	k.e.StatusID = 4 // resolved
	switch b.Disposition {
	case evidence.AlertFalsePositive:
		k.e.StatusID = 3 // suppressed
	case evidence.AlertIncident:
		k.activity(activity{2, "Update"})
		k.e.StatusID = 2 // in progress
	}
	k.e.Comment = k.text(b.Reason)
	k.unmapped("disposition", b.Disposition)
	k.unmapped("incident", b.Incident)
	k.unmapped("by", b.By.Person.ID)
	return nil
}

// asks is a person who asks the gateway for evidence.
func (k *maker) asks(by evidence.By) {
	k.by(by)
	name := k.h.Pos.Gateway
	k.e.SrcEndpoint = &endpoint{Name: orElse(by.Via, "unknown")}
	k.e.API = &api{Operation: string(k.h.Type), Service: &service{Name: k.m.product.Name, UID: name}}
}

func (k *maker) evidenceRead() error {
	b := body[evidence.ReadBody](k)
	k.asks(b.By)
	k.e.Resources = []resource{{Name: k.text(orElse(b.Object, "evidence")), Type: "evidence"}}
	k.unmapped("purpose", b.Purpose)
	k.unmapped("level", b.Level)
	k.unmapped("from", b.From)
	k.unmapped("to", b.To)
	k.unmapped("reader", b.Reader)
	k.unmapped("recipient", b.Recipient)
	k.unmapped("sample", b.Sample)
	k.unmapped("manifest", b.Manifest)
	k.list("records", positions(b.Records))
	if b.Recipient != "" {
		k.e.SeverityID = low // sealed parts leave
	}
	return nil
}

func positions(list []evidence.Position) (texts []string) {
	for _, p := range list {
		texts = append(texts, p.String())
	}
	return texts
}

func (k *maker) packMade() error {
	b := body[evidence.PackMadeBody](k)
	k.asks(b.By)
	k.e.Resources = []resource{{Name: "pack", Type: "evidence"}}
	k.unmapped("manifest", b.Manifest)
	k.unmapped("level", b.Level)
	return nil
}

func (k *maker) logBackup() error {
	b := body[evidence.BackupBody](k)
	k.asks(b.By)
	k.e.Resources = []resource{{Name: "log", Type: "evidence"}}
	k.put("keys", b.Keys)
	k.list("recipients", b.Recipients)
	return nil
}
