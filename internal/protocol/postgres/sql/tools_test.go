package sql

import (
	"context"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// What psql asks the catalogue behind its commands is reading pg_catalog and
// nothing else.
func TestPsqlOnlyReadsTheCatalogue(t *testing.T) {
	psql, err := exec.LookPath("psql")
	if err != nil {
		t.Skip("no psql: apt-get install postgresql-client")
	}
	conn := shopServer(t)
	ctx := context.Background()
	c, err := Load(ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	u := New(&inProcess{}, c)
	asked := 0
	for _, command := range []string{
		`\d`, `\d orders`, `\d+ order_summary`, `\dt+ *.*`, `\di`, `\dv`, `\dm`, `\ds`, `\df`, `\df+ evil`, `\da`, `\do`, `\dT+`, `\dn+`, `\du+`, `\dp`, `\l+`,
		`\dx`, `\dO`, `\dC`, `\dD`, `\dF`, `\des`, `\dy`, `\dRp`, `\sf evil(int)`, `\sv order_summary`, `\dconfig`, `\db+`, `\dL`, `\dP`,
	} {
		cfg := conn.Config()
		cmd := exec.CommandContext(ctx, psql, "-X", "-E", "-h", cfg.Host, "-p", strconv.Itoa(int(cfg.Port)), "-U", "postgres", "-c", command)
		cmd.Env = append(os.Environ(), "PGPASSWORD="+cfg.Password)
		out, err := cmd.CombinedOutput()
		if err != nil && !strings.Contains(string(out), "does not exist") { // a column that a later server has no more
			t.Errorf("%s: %v\n%s", command, err, out)
		}
		for i, text := range strings.Split(string(out), "********* QUERY **********") {
			text, _, _ = strings.Cut(text, "**************************")
			if i == 0 || strings.TrimSpace(text) == "" {
				continue
			}
			asked++
			un := understand(u, text)
			if un.Shape.Verb != evidence.VerbRead || un.Shape.Parse != evidence.ParseFull {
				t.Errorf("%s: %s\n%s", command, text, un)
			}
			for _, check := range un.Shape.Checks {
				if check.Object != "" && !strings.HasPrefix(check.Object, "pg_catalog.") {
					t.Errorf("%s: %v", command, check)
				}
			}
		}
	}
	if asked < 40 {
		t.Errorf("psql asked only %d times", asked)
	}
}
