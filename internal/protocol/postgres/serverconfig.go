package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// What the gateway asks a server about who gets in.
const (
	rulesQuery = `SELECT h.line_number, h.type, h.database, h.user_name, h.address, h.netmask, h.auth_method, h.options, h.error IS NOT NULL ` +
		`FROM pg_catalog.pg_hba_file_rules h`
	settingsQuery = `SELECT s.name, s.setting, pg_catalog.concat(s.unit), s.source, s.pending_restart FROM pg_catalog.pg_settings s ` +
		`WHERE s.name OPERATOR(pg_catalog.~) '` + settingsRead + `' ORDER BY 1`
	allSettingsQuery = `SELECT pg_catalog.pg_has_role('pg_read_all_settings', 'USAGE')`
	rolesQuery       = `SELECT r.rolname, r.rolsuper, r.rolcanlogin, r.rolcreaterole, r.rolcreatedb, r.rolbypassrls, r.rolreplication, r.rolinherit, r.rolconnlimit, r.rolvaliduntil ` +
		`FROM pg_catalog.pg_roles r ORDER BY 1`
	membersFrom = `FROM pg_catalog.pg_auth_members a JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) a.roleid ` +
		`JOIN pg_catalog.pg_roles m ON m.oid OPERATOR(pg_catalog.=) a.member LEFT JOIN pg_catalog.pg_roles g ON g.oid OPERATOR(pg_catalog.=) a.grantor ORDER BY 1, 2, 3`
	membersQuery    = `SELECT m.rolname, r.rolname, g.rolname, a.admin_option, false, false ` + membersFrom
	membersQuery160 = `SELECT m.rolname, r.rolname, g.rolname, a.admin_option, a.inherit_option, a.set_option ` + membersFrom // 16 and later
)

// settingsRead are the settings that say what is logged, and who gets in.
const settingsRead = `^(log_.*|logging_collector|pgaudit\..*|ssl|ssl_.*|password_encryption|scram_iterations|md5_password_warnings|db_user_namespace|` +
	`authentication_timeout|listen_addresses|port|unix_socket_.*|hba_file|ident_file|krb_.*|gss_.*|oauth_.*|row_security|` +
	`(shared|session|local)_preload_libraries|event_triggers|track_activities|track_counts)$`

const (
	maxConfigRows = 20_000 // of one server
	maxConfigText = 1000   // bytes of a key, or of a value
)

// errConfigRows is returned for a server with more.
var errConfigRows = errors.New("the server has more rules, roles and memberships than are read")

// serverConfig is what is read of a server.
type serverConfig struct {
	rows   []evidence.ConfigRow
	unread map[string]string
	query  []string
	seen   map[[2]string]int
}

// ServerConfig reads how the server of a resource lets people in and what it
// logs of them, as far as the gateway's account sees it: unread says by kind of
// row what it doesn't, and why.
func (d *Databases) ServerConfig(ctx context.Context, resource string) (rows []evidence.ConfigRow, unread map[string]string, query string, err error) {
	ctx, cancel := context.WithTimeout(ctx, catalogueTimeout)
	defer cancel()
	conn, err := d.connect(ctx, resource, "configuration")
	if err != nil {
		return nil, nil, "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	c := &serverConfig{unread: make(map[string]string), seen: make(map[[2]string]int)}
	for _, read := range []func(context.Context, *pgx.Conn) error{c.rules, c.settings, c.roles, c.members} {
		if err := read(ctx, conn); err != nil {
			return nil, nil, "", fmt.Errorf("reading the server's configuration: %w", err)
		}
	}
	return c.rows, c.unread, strings.Join(c.query, "; "), nil
}

// ask runs a query for rows of a kind. What the server refuses is unread.
func (c *serverConfig) ask(ctx context.Context, conn *pgx.Conn, kind, query string, scans []any, fn func()) error {
	c.query = append(c.query, query)
	rows, err := conn.Query(ctx, query)
	if err == nil {
		_, err = pgx.ForEachRow(rows, scans, func() error {
			fn()
			if len(c.rows) > maxConfigRows {
				return errConfigRows
			}
			return nil
		})
	}
	var refused *pgconn.PgError
	if errors.As(err, &refused) && ctx.Err() == nil {
		c.rows = slices.DeleteFunc(c.rows, func(r evidence.ConfigRow) bool { return r.Kind == kind })
		c.unread[kind] = bounded(refused.Message + " (" + refused.Code + ")")
		return nil
	}
	return err
}

// add keeps a row. A second one of the same key gets a number.
func (c *serverConfig) add(kind, key, value string) {
	key = bounded(key)
	id := [2]string{kind, key}
	if c.seen[id]++; c.seen[id] > 1 {
		key += " #" + strconv.Itoa(c.seen[id])
	}
	c.rows = append(c.rows, evidence.ConfigRow{Kind: kind, Key: key, Value: bounded(value)})
}

func (c *serverConfig) rules(ctx context.Context, conn *pgx.Conn) error {
	query := rulesQuery + " ORDER BY h.line_number"
	if version(conn) >= 16 {
		query = rulesQuery + " ORDER BY h.rule_number, h.file_name, h.line_number"
	}
	var line int
	var typ, address, mask, method *string
	var databases, users, options []string
	var broken bool
	return c.ask(ctx, conn, evidence.ConfigRule, query, []any{&line, &typ, &databases, &users, &address, &mask, &method, &options, &broken}, func() {
		if broken || typ == nil || method == nil {
			c.add(evidence.ConfigRule, fmt.Sprintf("line %d", line), "can't be read by the server")
			return
		}
		key := quoted(*typ) + " database=" + list(databases) + " user=" + list(users)
		if address != nil {
			key += " address=" + quoted(*address)
		}
		if mask != nil {
			key += " netmask=" + quoted(*mask)
		}
		value := quoted(*method)
		for _, o := range options {
			value += " " + option(o)
		}
		c.add(evidence.ConfigRule, key, value)
	})
}

// openOptions are the options of a rule that tell no secret.
var openOptions = []string{"map", "clientcert", "clientname", "pamservice", "pam_use_hostname", "ldapserver", "ldapport", "ldapscheme", "ldaptls", "ldapprefix", "ldapsuffix",
	"ldapbasedn", "ldapbinddn", "ldapsearchattribute", "ldapsearchfilter", "radiusservers", "radiusports", "radiusidentifiers", "include_realm", "krb_realm",
	"compat_realm", "upn_username", "issuer", "scope", "validator", "delegate_ident_mapping"}

// option is an option of a rule, without the value of one that may be secret.
func option(o string) string {
	name, value, _ := strings.Cut(o, "=")
	if !slices.Contains(openOptions, name) {
		return quoted(name) + "=(withheld)"
	}
	return name + "=" + quoted(value)
}

func (c *serverConfig) settings(ctx context.Context, conn *pgx.Conn) error {
	all := false
	if err := c.ask(ctx, conn, evidence.ConfigSetting, allSettingsQuery, []any{&all}, func() {}); err != nil {
		return err
	}
	if !all && c.unread[evidence.ConfigSetting] == "" {
		c.unread[evidence.ConfigSetting] = "what only members of pg_read_all_settings see, such as hba_file"
	}
	var name, value, unit, source string
	var pending bool
	return c.ask(ctx, conn, evidence.ConfigSetting, settingsQuery, []any{&name, &value, &unit, &source, &pending}, func() {
		if name == "ssl_passphrase_command" && value != "" {
			sum := sha256.Sum256([]byte(value))
			value = "SHA-256 " + hex.EncodeToString(sum[:])
		}
		v := quoted(value) + unit + ", from " + source
		if pending {
			v += ", another waits for a restart"
		}
		c.add(evidence.ConfigSetting, name, v)
	})
}

func (c *serverConfig) roles(ctx context.Context, conn *pgx.Conn) error {
	names := []string{"superuser", "login", "createrole", "createdb", "bypassrls", "replication", "inherit"}
	has := make([]bool, len(names))
	var name string
	var limit int32
	var until pgtype.Timestamptz
	return c.ask(ctx, conn, evidence.ConfigRole, rolesQuery, []any{&name, &has[0], &has[1], &has[2], &has[3], &has[4], &has[5], &has[6], &limit, &until}, func() {
		value := words(names, has)
		if limit >= 0 {
			value = append(value, fmt.Sprintf("connections=%d", limit))
		}
		if until.Valid && until.InfinityModifier == pgtype.Finite {
			value = append(value, "until="+until.Time.UTC().Format("2006-01-02T15:04:05Z"))
		}
		c.add(evidence.ConfigRole, quoted(name), strings.Join(value, " "))
	})
}

func (c *serverConfig) members(ctx context.Context, conn *pgx.Conn) error {
	query := membersQuery
	if version(conn) >= 16 {
		query = membersQuery160
	}
	names := []string{"admin", "inherit", "set"}
	has := make([]bool, len(names))
	var member, role string
	var grantor *string
	return c.ask(ctx, conn, evidence.ConfigMember, query, []any{&member, &role, &grantor, &has[0], &has[1], &has[2]}, func() {
		key := quoted(member) + " in " + quoted(role)
		if grantor != nil {
			key += " by " + quoted(*grantor)
		}
		c.add(evidence.ConfigMember, key, strings.Join(append([]string{"member"}, words(names, has)...), " "))
	})
}

// version is the server's major version, 0 when it doesn't say.
func version(conn *pgx.Conn) int {
	v := conn.PgConn().ParameterStatus("server_version")
	if i := strings.IndexFunc(v, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		v = v[:i]
	}
	n, _ := strconv.Atoi(v)
	return n
}

func words(names []string, has []bool) (list []string) {
	for i, name := range names {
		if has[i] {
			list = append(list, name)
		}
	}
	return list
}

func list(names []string) string {
	q := make([]string, len(names))
	for i, name := range names {
		q[i] = quoted(name)
	}
	return strings.Join(q, ",")
}

// quoted is a name that can't be taken for anything else: in quotes unless it is
// a plain one.
func quoted(s string) string {
	plain := s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_-.:/+*@%", r)
	})
	if plain {
		return s
	}
	return strconv.Quote(s)
}

// bounded is a text of the catalogue that takes no more than its place, with a
// digest of what is cut.
func bounded(s string) string {
	s = strings.ToValidUTF8(s, "\ufffd")
	if len(s) <= maxConfigText {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return strings.ToValidUTF8(s[:maxConfigText-80], "") + "… SHA-256 " + hex.EncodeToString(sum[:])
}
