package e2e

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/exhibit-gateway/exhibit/internal/pgserver"
)

// PostgreSQL's own tests, which nobody here wrote: what a server says to them
// through the gateway is what it says directly, byte by byte. The policy lets
// everything pass, so what differs is the gateway's own doing.

var regressWhole = flag.Bool("regress", false, "run the whole of PostgreSQL's regression suite, and list each test")

// regressPart is what runs otherwise: the tests whose statements, messages and
// ways of failing ask most of whoever stands between psql and the server, with
// what they need. In PostgreSQL's schedule their order and neighbours are kept.
var regressPart = strings.Fields(`
	test_setup strings numerology uuid enum money txid timestamptz interval unicode encoding
	copy copyselect copydml insert insert_conflict create_type create_function_sql constraints errors infinite_recurse
	select_into transactions portals namespace prepared_xacts privileges lock password identity rowsecurity
	async misc_functions psql psql_crosstab publication subscription portals_p2 guc advisory_lock foreign_data
	json jsonb plancache plpgsql copy2 temp domain prepare conversion sequence returning largeobject with xml rowtypes
	event_trigger`)

// difference is one that may be: in lines that match, for a reason.
type difference struct {
	lines  *regexp.Regexp
	reason string
}

// regressDifferences are those of each test.
var regressDifferences = map[string]difference{
	"create_index": {
		regexp.MustCompile(`QUERY PLAN|^ -+ ?$|^ *-+$|Scan |Sort|Cond: |Filter: |^\(\d+ rows\)$`),
		"after each CREATE the gateway reads the catalogue, in one snapshot; a VACUUM meanwhile can't mark pages as visible to all, and the planner has less use for index-only scans",
	},
	"indexing": {
		regexp.MustCompile(`_not_null +\| n `),
		"since PostgreSQL 18 NOT NULL is a constraint with a name; an older test sorts by names that several of them share",
	},
	"rules": {
		regexp.MustCompile(`^ +\d+ \| r +\| +\d+$`),
		"since PostgreSQL 16 no rule makes a view of a table; an older test then prints the numbers of the table that is left, of which each server has its own",
	},
}

// countedBuffers are in what tests of before PostgreSQL 18 print.
var countedBuffers = difference{
	regexp.MustCompile(`^ +Buffers: `),
	"since PostgreSQL 18 EXPLAIN ANALYZE counts buffers unless told not to, and no two runs count the same",
}

func TestPostgresRegressionSuite(t *testing.T) {
	t.Parallel()
	slow(t)
	onSystemsServer(t, func(t *testing.T, w *world) {
		s := newSuite(w)
		groups := s.schedule(*regressWhole)
		direct := s.psql(s.direct(), groups)
		through := s.psql(s.gateway(), groups)
		expected, total := 0, 0
		for _, test := range slices.Concat(groups...) {
			total++
			verdict, reason := s.compare(test, direct[test], through[test])
			as := "unexpected"
			if s.expects(test, direct[test]) {
				expected++
				as = "expected"
			}
			switch {
			case verdict == "DIFFERS":
				t.Errorf("%s: %s", test, reason)
			case *regressWhole || reason != "":
				t.Logf("%-22s %s (directly: as %s) %s", test, verdict, as, reason)
			}
		}
		t.Logf("%d tests, of which %d come out as PostgreSQL expects when run directly", total, expected)
		least := total * 3 / 4 // its tests may be of another minor version than the server
		if !s.fits {
			least = total / 3
		}
		if expected < least {
			t.Error("those are so few that the suite itself is out of order: equal failures prove nothing")
		}
		s.w.passes()
	})
}

// libpq's own tests of pipelines must pass, and every message that crosses the
// wire be the same. Two of them send until the socket is full: those are never
// twice the same.
func TestLibpqPipelines(t *testing.T) {
	t.Parallel()
	slow(t)
	onNewestServer(t, func(t *testing.T, w *world) {
		s := newSuite(w)
		direct, through := s.direct(), s.gateway()
		program := filepath.Join(s.dir, "libpq_pipeline")
		if w.major() >= 16 {
			program += "_16"
		}
		names, err := s.w.run(program, "tests")
		s.w.ok(err)
		for _, name := range strings.Fields(names) {
			trace := func(to endpoint) string {
				file := filepath.Join(s.w.dir, "trace")
				ctx, cancel := context.WithTimeout(t.Context(), regressTimeout)
				defer cancel()
				cmd := exec.CommandContext(ctx, program, "-r", "700", "-t", file, name, "sslmode=disable")
				cmd.Env = to.env
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%s: %v\n%s", name, err, out)
				}
				b, err := os.ReadFile(file)
				s.w.ok(err)
				return string(b)
			}
			d, g := trace(direct), trace(through)
			if name == "pipelined_insert" || name == "uniqviol" {
				continue
			}
			if d != g || d == "" {
				t.Errorf("%s\n%s", name, w.keep(name, []byte(d), []byte(g)))
			}
		}
		s.w.passes()
	})
}

// isolationPart is what runs otherwise of PostgreSQL's tests of concurrent
// sessions: those that wait for each other, notify, and fail each other.
var isolationPart = strings.Fields(`
	read-only-anomaly simple-write-skew deadlock-simple deadlock-hard lock-update-delete nowait skip-locked
	insert-conflict-do-nothing async-notify drop-index-concurrently-1 multixact-no-deadlock temp-schema-cleanup`)

// Several sessions step by step, each of which may have to wait for another:
// the tester asks the server who waits, by the process id that it was told.
func TestPostgresIsolationTests(t *testing.T) {
	t.Parallel()
	slow(t)
	onNewestServer(t, func(t *testing.T, w *world) {
		s := newSuite(w)
		direct, through := s.direct(), s.gateway()
		specs, err := os.ReadDir(filepath.Join(s.dir, "specs"))
		s.w.ok(err)
		ran := 0
		for _, file := range specs {
			name := strings.TrimSuffix(file.Name(), ".spec")
			if !*regressWhole && !slices.Contains(isolationPart, name) {
				continue
			}
			printed := func(to endpoint) []byte {
				b, err := s.run(to, "specs/"+file.Name(), name+".out", "./isolationtester", "application_name=isolation")
				s.w.ok(err)
				return b
			}
			d, g := printed(direct), printed(through)
			if ran++; !bytes.Equal(d, g) || len(d) == 0 {
				t.Errorf("%s\n%s", name, w.keep(name, d, g))
			} else if *regressWhole {
				t.Logf("%s: same", name)
			}
		}
		if ran < len(isolationPart) {
			t.Errorf("only %d tests ran", ran)
		}
		s.w.passes()
	})
}

// suite is PostgreSQL's tests in a folder that its server can read, a server
// that is reached directly, and its like behind a gateway. The tests are of
// psql's version, since they compare what psql prints. On a newer server many of
// them fail, some since their library can't be loaded: directly and through the
// gateway alike, and that is what counts.
type suite struct {
	w    *world
	dir  string
	fits bool // the server is of their version
}

// endpoint is where a client finds a server, as libpq's environment.
type endpoint struct{ env []string }

// regressTimeout bounds one test.
const regressTimeout = 5 * time.Minute

func newSuite(w *world) *suite {
	w.t.Helper()
	version, err := w.run("psql", "--version")
	w.ok(err)
	major := regexp.MustCompile(`\d+`).FindString(version) // "psql (PostgreSQL) 15.18"
	s := &suite{w: w, dir: w.path("suite"), fits: strings.HasPrefix(w.db.Version, major+".")}
	w.ok(os.CopyFS(s.dir, os.DirFS(w.suiteOf(major))))
	libraries := w.serversLibraries()
	for _, library := range []string{"autoinc.so", "refint.so"} { // the server's own, which the tests look for beside theirs
		w.ok(os.Symlink(filepath.Join(libraries, library), filepath.Join(s.dir, library)))
	}
	return s
}

// serversLibraries is the folder of the server's loadable libraries.
func (w *world) serversLibraries() (dir string) {
	w.t.Helper()
	c, err := pgx.Connect(w.t.Context(), w.db.URL("postgres"))
	w.ok(err)
	defer c.Close(context.Background())
	w.ok(c.QueryRow(w.t.Context(), "select setting from pg_config where name = 'PKGLIBDIR'").Scan(&dir))
	return dir
}

// suiteOf is the folder of a version's tests.
func (w *world) suiteOf(major string) string {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), "../scripts/pgsuite.sh", major)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil && os.Getenv("CI") == "" {
		w.t.Skipf("PostgreSQL's tests can't be had: %v\n%s", err, &said)
	}
	if err != nil {
		w.t.Fatalf("getting PostgreSQL's tests: %v\n%s", err, &said)
	}
	return strings.TrimSpace(string(out))
}

// direct starts a server, and says how to reach it.
func (s *suite) direct() endpoint {
	db := s.server("direct")
	return s.endpoint(db.Addr, db.User, db.Password)
}

// gateway starts a server behind the gateway. The agent is called as the
// server's superuser is, whom some of the tests expect to be.
func (s *suite) gateway() endpoint {
	w := s.w
	db := s.server("behind")
	w.ok(os.WriteFile(w.path("superuser"), []byte(db.Password+"\n"), 0o600))
	w.edit(func(c string) string {
		c = strings.Replace(c, "token_ttl: 15m", "token_ttl: 2h", 1)
		return strings.Replace(c, "resources:\n", fmt.Sprintf("resources:\n"+
			"  - {name: regression, protocol: postgres, durability: process, upstream: {address: '%s', database: regression, user: %s, password: {file: superuser}}}\n",
			db.Addr, db.User), 1)
	})
	w.ok(os.WriteFile(w.path("policies/guardrails.cedar"), []byte(`@id("all") permit (principal in Role::"all", action, resource);`), 0o644))
	w.must("reload")
	w.must("agent", "add", db.User, "--owner", "alice@example.com", "--purpose", "to be tested by PostgreSQL's tests")
	w.must("enroll", db.User, "--key", w.path(db.User+".key"))
	w.must("grant", "add", "--agent", db.User, "--role", "all", "--resource", "regression", "--for", "2h")
	return s.endpoint(w.listen, db.User, w.token(db.User))
}

// server starts a server with an empty database, set as the tests expect it.
func (s *suite) server(name string) *pgserver.Server {
	s.w.t.Helper()
	db, err := pgserver.StartVersion(s.w.t.Context(), strconv.Itoa(s.w.major()), s.w.path(name), "fsync=off", "max_prepared_transactions=8")
	s.w.ok(err)
	s.w.t.Cleanup(func() { s.w.ok(db.Stop()) })
	s.w.ok(db.Exec(s.w.t.Context(), "postgres", "create database regression template template0",
		"alter database regression set lc_messages to 'C'", "alter database regression set lc_monetary to 'C'",
		"alter database regression set lc_numeric to 'C'", "alter database regression set lc_time to 'C'",
		"alter database regression set bytea_output to 'hex'", "alter database regression set timezone_abbreviations to 'Default'"))
	return db
}

func (s *suite) endpoint(addr, user, password string) endpoint {
	host, port, err := net.SplitHostPort(addr)
	s.w.ok(err)
	return endpoint{[]string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "PGHOST=" + host, "PGPORT=" + port,
		"PGUSER=" + user, "PGPASSWORD=" + password, "PGDATABASE=regression", "PGSSLMODE=disable"}}
}

// schedule is PostgreSQL's: groups of tests, of which each runs at once.
func (s *suite) schedule(whole bool) (groups [][]string) {
	b, err := os.ReadFile(filepath.Join(s.dir, "parallel_schedule"))
	s.w.ok(err)
	for line := range strings.Lines(string(b)) {
		tests, ok := strings.CutPrefix(line, "test:")
		if !ok {
			continue
		}
		group := slices.DeleteFunc(strings.Fields(tests), func(test string) bool {
			return !whole && !slices.Contains(regressPart, test)
		})
		groups = append(groups, group)
	}
	return groups
}

// psql runs tests and returns what each printed. It does what pg_regress would,
// which comes with a compiler suite, and takes no password.
func (s *suite) psql(to endpoint, groups [][]string) map[string][]byte {
	s.w.t.Helper()
	// The same for both runs, since its name is in what they print. The server
	// writes there as well.
	results := filepath.Join(s.dir, "results")
	s.w.ok(os.RemoveAll(results))
	s.w.ok(os.Mkdir(results, 0o777))
	s.w.ok(os.Chmod(results, 0o777)) //nolint:gosec // whatever the umask says
	printed := make(map[string][]byte)
	var mu sync.Mutex
	for _, group := range groups {
		var wg sync.WaitGroup
		for _, test := range group {
			wg.Go(func() {
				out, err := s.test(to, test)
				mu.Lock()
				defer mu.Unlock()
				if printed[test] = out; err != nil {
					s.w.t.Errorf("%s: %v", test, err)
				}
			})
		}
		wg.Wait()
	}
	return printed
}

// test runs one test. That psql exits with an error is part of some.
func (s *suite) test(to endpoint, test string) ([]byte, error) {
	to.env = append(slices.Clone(to.env), "PGAPPNAME=pg_regress/"+test, "LC_MESSAGES=C",
		"PGTZ=America/Los_Angeles", "PGDATESTYLE=Postgres, MDY", "PGOPTIONS=-c intervalstyle=postgres_verbose",
		"PG_ABS_SRCDIR="+s.dir, "PG_ABS_BUILDDIR="+s.dir, "PG_LIBDIR="+s.dir, "PG_DLSUFFIX=.so")
	return s.run(to, "sql/"+test+".sql", "results/"+test+".out",
		"psql", "-X", "-a", "-q", "-v", "HIDE_TABLEAM=on", "-v", "HIDE_TOAST_COMPRESSION=on")
}

// run runs a program on the content of a file, and returns what it prints. That
// goes to a file, since some tests read what they have printed so far.
func (s *suite) run(to endpoint, from, into string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(s.w.t.Context(), regressTimeout)
	defer cancel()
	in, err := os.Open(filepath.Join(s.dir, from))
	if err != nil {
		return nil, err
	}
	defer in.Close()
	into = filepath.Join(s.dir, into)
	out, err := os.Create(into)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Dir, cmd.Env = in, out, out, s.dir, to.env
	var exit *exec.ExitError
	if err := cmd.Run(); ctx.Err() != nil {
		return nil, fmt.Errorf("hangs: %w", ctx.Err())
	} else if err != nil && !errors.As(err, &exit) {
		return nil, err
	}
	return os.ReadFile(into)
}

// expects reports whether PostgreSQL's own files have a test print that: there
// may be several, for platforms and settings.
func (s *suite) expects(test string, printed []byte) bool {
	for _, variant := range []string{"", "_0", "_1", "_2", "_3", "_4", "_5"} {
		b, err := os.ReadFile(filepath.Join(s.dir, "expected", test+variant+".out"))
		if !errors.Is(err, fs.ErrNotExist) {
			s.w.ok(err)
		}
		if err == nil && bytes.Equal(b, printed) {
			return true
		}
	}
	return false
}

// compare says whether a test prints the same, and if not why that may be, or
// how it differs.
func (s *suite) compare(test string, direct, through []byte) (verdict, reason string) {
	s.w.t.Helper()
	if bytes.Equal(direct, through) {
		return "same", ""
	}
	lines := differing(direct, through)
	if len(lines) == 0 { // they are in another order
		reason = regressDifferences[test].reason
	}
	for _, d := range []difference{regressDifferences[test], countedBuffers} {
		rest := slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return d.lines != nil && d.lines.MatchString(line) })
		if len(rest) < len(lines) {
			lines, reason = rest, d.reason
		}
	}
	if len(lines) > 0 || reason == "" {
		return "DIFFERS", s.w.keep(test, direct, through)
	}
	return "differs", reason
}

// differing returns the lines that only one of two texts has so often.
func differing(a, b []byte) (lines []string) {
	count := make(map[string]int)
	for line := range strings.Lines(string(a)) {
		count[strings.TrimSuffix(line, "\n")]++
	}
	for line := range strings.Lines(string(b)) {
		count[strings.TrimSuffix(line, "\n")]--
	}
	for line, n := range count {
		if n != 0 {
			lines = append(lines, line)
		}
	}
	return lines
}
