package config

import (
	_ "embed"
	"fmt"
	"strings"
	"text/template"
)

// Params are the answers that a fresh configuration is written with.
type Params struct {
	Gateway      string
	Organisation string
	Origin       string
	Data         string
	Policies     string
	Person       Person
	Listen       string // address of the listener
	Upstream     Upstream
	Resource     string
	Auditors     []string
}

//go:embed template.yaml
var templateText string

var fresh = template.Must(template.New("exhibit.yaml").Funcs(template.FuncMap{"q": quote}).Parse(templateText))

// quote writes s as a YAML scalar: plain where that can't be misread, else in
// single quotes.
func quote(s string) string {
	plain := s != "" && !strings.ContainsAny(s[:1], "-?:,[]{}#&*!|>'\"%@`0123456789.~+ ")
	for _, r := range s {
		plain = plain && r != '#' && r != ':' && r >= ' ' && r != '\'' && r != ',' && r != '{' && r != '}' && r != '[' && r != ']'
	}
	switch strings.ToLower(s) {
	case "true", "false", "null", "yes", "no", "on", "off":
		plain = false
	}
	if plain && !strings.HasSuffix(s, " ") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", "''") + "'"
}

// Template returns a commented configuration file. Parse accepts it when the
// params are valid.
func Template(p Params) ([]byte, error) {
	var b strings.Builder
	if err := fresh.Execute(&b, p); err != nil {
		return nil, fmt.Errorf("writing a configuration: %w", err)
	}
	return []byte(b.String()), nil
}
