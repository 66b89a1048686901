package workpaper

// The tables of a pack, in the order of its folder. What a column means is in
// docs/spec/pack.md; a field that records don't hold has no column.
const (
	agentsTable       = "agents"
	credentialsTable  = "credentials"
	authnTable        = "authn"
	grantsTable       = "grants"
	approvalsTable    = "approvals"
	usedTable         = "granted_vs_used"
	sodTable          = "sod_violations"
	killsTable        = "kills"
	sessionsTable     = "sessions"
	commandsTable     = "commands"
	transactionsTable = "transactions"
	resolutionsTable  = "resolutions"
	denialsTable      = "denials"
	alertsTable       = "alerts"
	changesTable      = "changes"
	uptimeTable       = "uptime"
	readersTable      = "evidence_access"
	totalsTable       = "totals"
)

// Populations returns the populations, without rows.
func Populations() []Table {
	return []Table{
		{Name: agentsTable, Columns: columns("agent_id:n", "name", "purpose", "model", "owner_id", "owner_name", "owner_email",
			"backup_owner_id", "team", "env", "status:n", "expires_at:t", "created_at:t", "created_pos:n", "created_by", "created_via",
			"disabled_at:t", "disabled_pos:n", "disabled_by", "disabled_via", "disable_reason",
			"sessions:#", "commands:#", "denied:#", "last_session_at:t")},
		{Name: credentialsTable, Columns: columns("cred_id:n", "agent_id:n", "kind:n", "key_thumbprint", "issuer", "not_before:t", "not_after:t",
			"principal", "ticket", "issued_at:t", "issued_pos:n", "issued_by", "issued_via",
			"revoked_at:t", "revoked_pos:n", "revoked_by", "revoke_reason", "uses:#", "last_used_at:t", "last_used_pos:n")},
		{Name: authnTable, Columns: columns("authn_pos:n", "at:t", "outcome:n", "failure_code", "agent_id:n", "resource:n", "protocol", "method",
			"cred_id", "key_thumbprint", "token_hash", "client", "listener")},
		{Name: grantsTable, Columns: columns("grant_id:n", "agent_id:n", "role_id", "resource:n", "ticket_ref", "reason", "request_id:n", "requested_at:t", "requested_by", "requested_via",
			"approved_at:t", "approved_pos:n", "approved_by", "approver_authority", "renews:n", "starts_at:t", "effective_at:t", "effective_pos:n", "expires_at:t", "status:n",
			"removed_at:t", "removed_pos:n", "removed_by", "removed_via", "remove_reason", "uses:#", "last_used_at:t", "last_used_pos:n")},
		{Name: approvalsTable, Columns: columns("request_id:n", "requested_at:t", "kind:n", "digest", "agent_id:n", "resource:n", "asks", "ticket_ref", "reason",
			"requested_by", "requested_via", "needs", "expires_at:t", "state:n", "approved_by", "approver_authority", "denied_by", "decided_at:t", "decided_pos:n",
			"used_at:t", "used_pos:n", "used_by")},
		{Name: usedTable, Columns: columns("grant_id:n", "agent_id:n", "role_id", "resource:n", "effective_at:t", "expires_at:t", "days_held:#", "uses:#", "last_used_at:t",
			"actions_granted:#", "actions_used:#", "used", "unused", "refusals:#")},
		{Name: sodTable, Columns: columns("pos:n", "at:t", "rule:n", "kind:n", "person", "via", "agent_id:n", "resource:n", "text")},
		{Name: terminationsTable, Columns: columns("subject_kind:n", "subject", "left_at:t", "import_pos:n", "noticed_at:t", "noticed_pos:n",
			"owned_agents", "stopped_agents", "sessions_open:#", "last_session_end_at:t", "last_session_end_pos:n",
			"last_command_at:t", "last_command_pos:n", "lag_seconds:#", "limit_seconds:#")},
		{Name: rightsTable, Columns: columns("import_pos:n", "resource:n", "subject_kind:n", "subject", "whose:n", "namespace", "verbs", "resources", "names", "paths", "flags", "bound_by")},
		{Name: upstreamConfigTable, Columns: columns("import_pos:n", "at:t", "resource:n", "previous_pos:n", "kind:n", "key", "before", "after", "class:n", "ticket", "imported_by")},
		{Name: reconTable, Columns: columns("run_pos:n", "resource:n", "at:t", "upstream_session", "user", "database", "client", "backend_pid:#", "backend_start:t",
			"class:n", "reason", "matched_pos:n")},
		{Name: reconRequestsTable, Columns: columns("run_pos:n", "resource:n", "at:t", "until:t", "audit_id", "user", "groups", "as_user", "as_groups", "client", "verb", "object",
			"stage", "code:#", "requests:#", "class:n", "reason", "matched_pos:n")},
		{Name: reconRunsTable, Columns: columns("pos:n", "at:t", "resource:n", "import_pos:n", "from:t", "to:t", "uncovered_before_s:#", "logged:#", "gateway:#", "own:#", "allowed:#",
			"unexplained:#", "missing:#", "tie:n", "counted:#", "compared:#", "asked_by")},
		{Name: ticketsTable, Columns: columns("first_used_pos:n", "first_used_at:t", "last_used_pos:n", "last_used_at:t", "ticket", "class:n", "detail",
			"sessions:#", "grants:#", "requests:#", "policies:#", "asked_by", "approved_by",
			"import_pos:n", "taken_at:t", "status", "created_at:t", "closed_at:t", "approval:n", "approved_at:t", "requester", "approvers", "assignee", "row_digest")},
		{Name: killsTable, Columns: columns("pos:n", "at:t", "ended_by", "ended_via", "agent_id:n", "sessions", "reason")},
		{Name: sessionsTable, Columns: columns("session_id:n", "state:n", "agent_id:n", "owner_id", "owner_email", "principal", "principal_type", "ticket",
			"cred_id", "authn_pos", "resource:n", "protocol", "client", "listener", "client_tls", "upstream", "upstream_user", "upstream_database",
			"upstream_local", "upstream_remote", "upstream_pid:#", "upstream_started", "upstream_tls", "upstream_peer", "upstream_system_id", "upstream_version", "durability", "enforce_mode",
			"decision:n", "rules", "grants", "policy_digest", "deny_reason",
			"started_at:t", "ended_at:t", "end_pos:n", "end_reason", "carried_in",
			"commands:#", "denied:#", "skipped:#", "errors:#", "in_doubt:#", "opaque:#", "rows:#", "bytes_up:#", "bytes_down:#",
			"unattributed_bytes", "gap_flag")},
		{Name: commandsTable, Columns: columns("command_id:n", "at:t", "session_id:n", "agent_id:n", "resource:n", "verb:n", "path", "parse", "text", "checks",
			"of:n", "decision:n", "rules", "grants", "policy_digest", "deny_reason", "approval:n", "limit:n", "outcome:n", "code:n", "rows:#", "bytes_up:#", "bytes_down:#",
			"frames:#", "duration_us:#", "ended_at:t", "end_pos:n")},
		{Name: transactionsTable, Columns: columns("tx_pos:n", "at:t", "session_id:n", "agent_id:n", "resource:n", "result:n", "block", "first_command:n", "last_command:n",
			"commands:#", "xid")},
		{Name: resolutionsTable, Columns: columns("pos:n", "at:t", "command_id:n", "session_id:n", "agent_id:n", "resource:n", "result:n", "how", "xid")},
		{Name: denialsTable, Columns: columns("pos:n", "at:t", "kind:n", "session_id:n", "agent_id:n", "resource:n", "verb:n", "text", "checks",
			"decision:n", "rules", "policy_digest", "deny_reason", "client", "bytes_to_upstream:#")},
		{Name: alertsTable, Columns: columns("pos:n", "at:t", "rule", "severity:n", "session_id:n", "agent_id:n", "resource:n", "trigger:n", "text",
			"acknowledged_at:t", "acknowledged_pos:n", "acknowledged_by", "disposition:n", "incident", "acknowledge_reason")},
		{Name: changesTable, Columns: columns("change_pos:n", "at:t", "kind:n", "before_digest", "after_digest", "version", "files", "diff", "activated_by", "activated_via",
			"request_id:n", "proposed_at:t", "proposed_by", "approved_at:t", "approved_pos:n", "approved_by", "ticket_ref", "tests:#", "backtest_commands:#", "backtest_differ:#", "rollback_of:n")},
		{Name: uptimeTable, Columns: columns("boot:n", "started_at:t", "start_pos:n", "last_at:t", "last_pos:n", "end:n", "reason", "previous_pos:n", "previous_clean",
			"version", "binary_digest", "config_digest", "policy_digest", "fail_mode", "host", "heartbeat_s:#", "records:#",
			"longest_silence_us:#", "heartbeat_gaps:#", "recording_gaps:#", "clock_steps:#", "down_before_us:#")},
		retentionPopulation(),
		readersPopulation(),
		{Name: totalsTable, Columns: columns("table:n", "measure", "value:#")},
	}
}

// Listings returns the access listings that every pack has, without rows. One at
// the end of each quarter in the range stands between them.
func Listings() []Table {
	return []Table{{Name: "access@opening", Columns: accessColumns()}, {Name: "access@closing", Columns: accessColumns()}}
}

func accessColumns() []Column {
	return columns("agent_id:n", "owner_id", "role_id", "resource:n", "object", "action", "effect:n", "obligations", "grants", "tickets", "approved_by",
		"permits", "forbids", "expires_at:t", "policy_digest", "upstream_role", "upstream_privileges")
}
