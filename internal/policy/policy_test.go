package policy

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
)

var actions = map[string][]string{"postgres:select": {"read"}, "postgres:insert": {"write"}}

const reader = `@id("reader") permit (principal in Role::"reader", action in Action::"read", resource);`

func folder(files map[string]string) fstest.MapFS {
	m := fstest.MapFS{}
	for name, text := range files {
		m[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o644}
	}
	return m
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"b.cedar": reader, "a.cedar": "// nothing yet\n", "README.md": "not policy", ".a.cedar.swp": "\x00",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	body, err := Load(dir, Vocabulary{Actions: actions})
	if err != nil {
		t.Fatal(err)
	}
	want := []evidence.File{{Name: "a.cedar", Text: "// nothing yet\n"}, {Name: "b.cedar", Text: reader}}
	if !slices.Equal(body.Files, want) || body.Digest != decision.Digest(want, actions) || len(body.Actions) != 2 {
		t.Errorf("got %+v", body)
	}
	again, err := Load(dir, Vocabulary{Actions: actions})
	if err != nil || again.Digest != body.Digest {
		t.Errorf("the same folder gives another digest: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a.cedar"), []byte("// nothing yet \n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if changed, err := Load(dir, Vocabulary{Actions: actions}); err != nil || changed.Digest == body.Digest {
		t.Errorf("another text gives the same digest: %v", err)
	}
}

// A mounted ConfigMap is a folder of links into a hidden one.
// A folder that is loaded again says what is in it now, right or wrong.
func TestAFolderIsLoadedAgain(t *testing.T) {
	dir := t.TempDir()
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "a.cedar"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := NewFolder(dir, Vocabulary{Actions: actions})
	if _, err := f.Load(); err == nil {
		t.Error("an empty folder")
	}
	good := `@id("r") permit (principal in Role::"r", action, resource);`
	for _, text := range []string{good, good, "permit", "permit", good + "\n"} {
		write(text)
		b, err := f.Load()
		if (err == nil) != strings.HasPrefix(text, good) || err == nil && b.Files[0].Text != text {
			t.Errorf("%q: %+v, %v", text, b.Files, err)
		}
	}
}

func TestLoadFollowsLinks(t *testing.T) {
	dir := t.TempDir()
	hidden := filepath.Join(dir, "..2027_01_15")
	if err := os.Mkdir(hidden, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(hidden, "r.cedar"), []byte(reader), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join("..2027_01_15", "r.cedar"), filepath.Join(dir, "r.cedar")); err != nil {
		t.Fatal(err)
	}
	if body, err := Load(dir, Vocabulary{Actions: actions}); err != nil || len(body.Files) != 1 {
		t.Errorf("got %+v, %v", body, err)
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		files map[string]string
		says  string
	}{
		"an empty folder":    {map[string]string{"README.md": ""}, "has no .cedar files (hint:"},
		"a folder within":    {map[string]string{"a.cedar": reader, "prod/b.cedar": reader}, "policies/prod is a folder (hint:"},
		"a file too long":    {map[string]string{"a.cedar": strings.Repeat(" ", decision.MaxFile+1)}, "exceeds"},
		"too much in all":    {many(), "exceed"},
		"what isn't Cedar":   {map[string]string{"a.cedar": "let me in"}, "a.cedar:1:"},
		"what isn't allowed": {map[string]string{"a.cedar": "permit (principal, action, resource);"}, "does not name a role"},
	} {
		if _, err := LoadFS(folder(tc.files), "policies", Vocabulary{Actions: actions}); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none"), Vocabulary{Actions: actions}); err == nil || Problems(err) != nil {
		t.Errorf("no folder: %v", err)
	}
}

func many() map[string]string {
	m := make(map[string]string)
	for i := range decision.MaxBundle/decision.MaxFile + 1 {
		m[string(rune('a'+i))+".cedar"] = strings.Repeat(" ", decision.MaxFile)
	}
	return m
}

func TestProblemsAreToldAllAtOnce(t *testing.T) {
	_, err := LoadFS(folder(map[string]string{
		"a.cedar": "\n" + `@id("x") @ttl("1h") permit (principal, action, resource);`,
		"b.cedar": `@id("x") forbid (principal, action == Action::"selct", resource);`,
		"c.cedar": `forbid`,
	}), "policies", Vocabulary{Actions: actions})
	var got []string
	for _, p := range Problems(err) {
		got = append(got, p.File+" "+p.Rule)
		if p.Line == 0 || p.Text == "" {
			t.Errorf("%+v", p)
		}
	}
	if want := []string{"a.cedar x", "a.cedar x", "b.cedar x", "b.cedar x", "c.cedar "}; !slices.Equal(got, want) {
		t.Errorf("got %q\n%v", got, err)
	}
}

func TestDiff(t *testing.T) {
	before := evidence.PolicyBody{Files: []evidence.File{{Name: "a.cedar", Text: "one\ntwo\n"}, {Name: "b.cedar", Text: "gone\n"}}, Actions: actions}
	after := evidence.PolicyBody{Files: []evidence.File{{Name: "a.cedar", Text: "one\n2\n"}, {Name: "c.cedar", Text: "new\n"}},
		Actions: map[string][]string{"postgres:select": {"write"}, "postgres:insert": {"write"}}}
	got := Diff(before, after)
	want := `diff a/a.cedar b/a.cedar
--- a/a.cedar
+++ b/a.cedar
@@ -1,2 +1,2 @@
 one
-two
+2
diff a/actions b/actions
--- a/actions
+++ b/actions
@@ -1,2 +1,2 @@
 postgres:insert in write
-postgres:select in read
+postgres:select in write
diff a/b.cedar /dev/null
--- a/b.cedar
+++ /dev/null
@@ -1,1 +0,0 @@
-gone
diff /dev/null b/c.cedar
--- /dev/null
+++ b/c.cedar
@@ -0,0 +1,1 @@
+new
`
	if got != want {
		t.Errorf("got\n%s", got)
	}
	if same := Diff(after, after); same != "" {
		t.Errorf("of a bundle and itself:\n%s", same)
	}
}

func TestWriteExample(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "policies")
	if err := WriteExample(dir, Example()); err != nil {
		t.Fatal(err)
	}
	if names, err := list(os.DirFS(dir), dir); err != nil || !slices.Equal(names, []string{"guardrails.cedar", "roles.cedar"}) {
		t.Errorf("wrote %v, %v", names, err)
	}
	if err := WriteExample(dir, Example()); err == nil {
		t.Error("overwrote what was there")
	}
}
