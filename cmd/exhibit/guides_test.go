package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/policy"
)

// The rules that the guides show can be used as they stand.
func TestRulesOfTheGuides(t *testing.T) {
	guides, err := filepath.Glob("../../docs/guides/*.md")
	if err != nil || len(guides) == 0 {
		t.Fatalf("%v, %v", guides, err)
	}
	n := 0
	for _, guide := range guides {
		text, err := os.ReadFile(guide)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("(?s)```cedar\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
			n++
			if !strings.Contains(m[1], "@id(") {
				continue // a part of one
			}
			if _, err := policy.Bundle([]evidence.File{{Name: "guide.cedar", Text: m[1]}}, vocabulary); err != nil {
				t.Errorf("%s: %v\n%s", filepath.Base(guide), err, m[1])
			}
		}
	}
	if n < 3 {
		t.Errorf("%d rules were found", n)
	}
}

// The guide to policy names each action of HTTP in its class; the one to MCP
// those of MCP, and that to Kubernetes its.
func TestTheGuidesNameEachAction(t *testing.T) {
	text, err := os.ReadFile("../../docs/guides/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		if cells := strings.Split(line, "|"); len(cells) > 4 {
			rows[strings.Trim(cells[1], " `")] += cells[3]
		}
	}
	mcpGuide, err := os.ReadFile("../../docs/guides/mcp.md")
	if err != nil {
		t.Fatal(err)
	}
	kubeGuide, err := os.ReadFile("../../docs/guides/kubernetes.md")
	if err != nil {
		t.Fatal(err)
	}
	for action, classes := range actions {
		protocol, name, _ := strings.Cut(action, ":")
		switch {
		case protocol == "http" && !strings.Contains(rows[classes[0]], "`"+name+"`"):
			t.Errorf("%s is missing in class %s", action, classes[0])
		case protocol == "kubernetes" && !strings.Contains(string(kubeGuide), "`"+name+"`"):
			t.Errorf("%s is missing", action)
		case protocol == "mcp" && !strings.Contains(string(mcpGuide), "`"+action+"`"):
			t.Errorf("%s is missing", action)
		}
	}
}
