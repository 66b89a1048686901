package postgres_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres"
)

// What decides who gets in is read as far as the account sees it, and what it
// doesn't see is said. No secret is among it.
func TestAServersConfigurationIsRead(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	name := "config_reader"
	boss, trusted, odd := name+"_boss", name+"_trusted", name+` "odd, one`
	ident := func(n string) string { return `"` + strings.ReplaceAll(n, `"`, `""`) + `"` }
	s.sql(t, "create role "+ident(boss)+" superuser login password '"+boss+"'", "create role "+ident(name)+" login password '"+name+"' connection limit 7 valid until '2030-01-01 00:00:00+02'",
		"create role "+ident(trusted)+" login password '"+trusted+"'", "grant pg_read_all_settings to "+ident(trusted), "create role "+ident(odd), "grant "+ident(odd)+" to "+ident(name)+" with admin option")
	defer s.sql(t, "drop role "+ident(name), "drop role "+ident(odd), "drop role "+ident(boss), "drop role "+ident(trusted))
	read := func(user string, statements ...string) (rows map[[2]string]string, unread map[string]string) {
		t.Helper()
		t.Run(user, func(t *testing.T) { // with a database of its own
			d := newCatalogued(t, s, user)
			d.sql(t, statements...)
			list, holes, query, err := d.ServerConfig(t.Context(), "orders")
			if err != nil || !strings.Contains(query, "pg_auth_members") {
				t.Fatalf("%v, asked %s", err, query)
			}
			rows, unread = make(map[[2]string]string), holes
			for _, r := range list {
				if _, twice := rows[[2]string{r.Kind, r.Key}]; twice {
					t.Errorf("%+v is there twice", r)
				}
				rows[[2]string{r.Kind, r.Key}] = r.Value
			}
		})
		return rows, unread
	}
	count := func(rows map[[2]string]string, kind string) (n int) {
		for k := range rows {
			if k[0] == kind {
				n++
			}
		}
		return n
	}

	rows, unread := read(boss)
	if len(unread) != 0 || count(rows, evidence.ConfigRule) == 0 || rows[[2]string{evidence.ConfigSetting, "hba_file"}] == "" {
		t.Errorf("a superuser can't read %v; the rows are %v", unread, rows)
	}
	rules := count(rows, evidence.ConfigRule)
	rows, unread = read(trusted, "grant select on pg_hba_file_rules to "+trusted, "grant execute on function pg_hba_file_rules() to "+trusted)
	if len(unread) != 0 || count(rows, evidence.ConfigRule) != rules || rows[[2]string{evidence.ConfigSetting, "hba_file"}] == "" {
		t.Errorf("with the grants of the guide it can't read %v; the rows are %v", unread, rows)
	}
	s.sql(t, "drop database "+strings.ToLower(t.Name())+"_"+trusted) // with what was granted there
	rows, unread = read(name)
	for key, want := range map[[2]string]string{
		{evidence.ConfigRole, name}:                   "login inherit connections=7 until=2029-12-31T22:00:00Z",
		{evidence.ConfigRole, fmt.Sprintf("%q", odd)}: "inherit",
		{evidence.ConfigRole, boss}:                   "superuser login inherit",
	} {
		if rows[key] != want {
			t.Errorf("%v is %q, want %q", key, rows[key], want)
		}
	}
	member := ""
	for k, v := range rows {
		if k[0] == evidence.ConfigMember && strings.HasPrefix(k[1], fmt.Sprintf("%s in %q by ", name, odd)) {
			member = v
		}
	}
	if !strings.HasPrefix(member, "member admin") {
		t.Errorf("the membership is %q", member)
	}
	if count(rows, evidence.ConfigRule) != 0 || !strings.Contains(unread[evidence.ConfigRule], "permission denied") || !strings.Contains(unread[evidence.ConfigSetting], "pg_read_all_settings") {
		t.Errorf("an account without rights can't read %v", unread)
	}
	if v := rows[[2]string{evidence.ConfigSetting, "password_encryption"}]; !strings.Contains(v, ", from ") {
		t.Errorf("password_encryption is %q", v)
	}
}

func TestNoSecretOfARuleIsRead(t *testing.T) {
	t.Parallel()
	for option, want := range map[string]string{
		"ldapbindpasswd=hunter2": "ldapbindpasswd=(withheld)",
		"radiussecrets=a,b":      "radiussecrets=(withheld)",
		"new=thing":              "new=(withheld)",
		"map=people":             "map=people",
		"ldapprefix=a b\x1b[31m": `ldapprefix="a b\x1b[31m"`,
	} {
		if got := postgres.RuleOption(option); got != want {
			t.Errorf("%q is read as %q, want %q", option, got, want)
		}
	}
	if long := postgres.Bounded(strings.Repeat("é", 5000)); len(long) > 1000 || long == postgres.Bounded(strings.Repeat("é", 5001)) {
		t.Errorf("a long text is read as %d bytes", len(long))
	}
}
