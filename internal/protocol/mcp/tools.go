package mcp

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Tool is a tool as a server defines it.
type Tool struct {
	Name       string          `json:"name"`
	Digest     string          `json:"digest"` // SHA-256 of the definition, in hex
	Definition json.RawMessage `json:"definition,omitempty"`

	readOnly bool   // says its definition
	unfit    string // why nobody can accept it; "" is nothing
}

// Why a tool is held.
const (
	heldNew     = "new"       // nobody has accepted it
	heldChanged = "changed"   // another definition was accepted
	heldName    = "name"      // the name could be taken for another one
	heldUnread  = "malformed" // the definition can be read in two ways
	heldUnknown = "unlisted"  // the server doesn't list it
)

// validName reports whether a name of a tool is one that the specification
// asks for. Others hide what they are: behind controls, marks of direction,
// letters that look like others.
func validName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("_-./", rune(c)) {
			return false
		}
	}
	return s != "" && len(s) <= maxName
}

// visible reports whether a name of another thing is plain ASCII, and of a size
// that records hold.
func visible(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return s != "" && len(s) <= 512 && strings.TrimSpace(s) == s
}

// toolOf reads a definition. What it holds besides _meta and icons, which no
// model is shown, is digested in one spelling.
func toolOf(def []byte) *Tool {
	name, err := member(def, "name")
	t := &Tool{Name: text(name)}
	if err != nil || !validName(t.Name) {
		t.unfit = heldName
		return t
	}
	d := json.NewDecoder(bytes.NewReader(def))
	d.UseNumber()
	var m map[string]any
	if d.Decode(&m) != nil {
		t.unfit = heldUnread
		return t
	}
	delete(m, "_meta")
	delete(m, "icons")
	t.Definition = encode(m) // keys are sorted
	sum := sha256.Sum256(t.Definition)
	t.Digest = hex.EncodeToString(sum[:])
	if a, ok := m["annotations"].(map[string]any); ok {
		t.readOnly, _ = a["readOnlyHint"].(bool)
	}
	return t
}

// encode is the JSON of what was read from JSON.
func encode(v any) []byte { return evidence.EncodeBody(v) }

// Held is why a resource's tool is neither shown nor called; "" is one that is
// accepted. It is asked each time: what is accepted changes with the
// configuration.
func (t *Tool) Held(res *Resource) string {
	accepted := res.Tools[t.Name]
	switch {
	case t.unfit != "" || res.AcceptAll:
		return t.unfit
	case accepted == "":
		return heldNew
	case accepted != t.Digest:
		return heldChanged
	}
	return ""
}

// reasons tell an agent why a tool is held.
var reasons = map[string]string{
	heldNew:     "nobody has accepted this tool yet",
	heldChanged: "the server has changed this tool since it was accepted",
	heldName:    "the tool's name is not one that is passed on",
	heldUnread:  "the tool's definition cannot be read",
	heldUnknown: "the server lists no such tool",
}

// hints tell it what to do.
func hintHeld(held string) string {
	if held == heldUnknown {
		return "list the tools"
	}
	return "ask the gateway's operator to review it with `exhibit mcp tools`"
}

// Definitions are the tools that servers list, by resource. They are on record
// before anybody is shown one.
type Definitions struct {
	cfg DefinitionsConfig

	mu sync.Mutex
	of map[string]*catalogue
}

// DefinitionsConfig is what Definitions need.
type DefinitionsConfig struct {
	Resources func() []Resource // in force now, to explain what is asked of them
	Record    func(ctx context.Context, resource string, b evidence.ImportBody) error
	Logger    *slog.Logger
}

// catalogue is what is known of a resource's tools.
type catalogue struct {
	mu       sync.Mutex
	tools    map[string]*Tool
	recorded string // digest of what is on record
	alerted  string // held tools that an alert was raised about
}

// NewDefinitions returns Definitions without any.
func NewDefinitions(c DefinitionsConfig) *Definitions {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return &Definitions{cfg: c, of: make(map[string]*catalogue)}
}

const (
	maxListed      = 4096    // tools, or the like, of one server
	maxDefinitions = 1 << 20 // bytes of definitions in one record
)

// listed puts on record what a server lists: all of it, or a part that is added
// to what is known. It returns what a person must know of, "" if nothing is
// new.
func (d *Definitions) listed(ctx context.Context, res *Resource, tools []*Tool, all bool) (alert string, err error) {
	resource := res.Resource
	d.mu.Lock()
	c := d.of[resource]
	if c == nil {
		c = &catalogue{}
		d.of[resource] = c
	}
	d.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	known := make(map[string]*Tool, len(tools))
	if !all {
		maps.Copy(known, c.tools)
	}
	for _, t := range tools {
		if t.Digest != "" {
			known[t.Name] = t
		}
	}
	if len(known) > maxListed {
		return "", fmt.Errorf("the server lists more than %d tools", maxListed)
	}
	if err := d.record(ctx, resource, c, known); err != nil {
		return "", err
	}
	c.tools = known
	return c.alert(res, tools), nil
}

// record records definitions that differ from those on record; c.mu is held.
func (d *Definitions) record(ctx context.Context, resource string, c *catalogue, known map[string]*Tool) error {
	list := sorted(known)
	brief, size := make([]Tool, len(list)), 0
	for i, t := range list {
		brief[i] = Tool{Name: t.Name, Digest: t.Digest}
		size += len(t.Definition)
	}
	sum := sha256.Sum256(encode(brief))
	digest := hex.EncodeToString(sum[:])
	if digest == c.recorded {
		return nil
	}
	data := encode(brief)
	if size <= maxDefinitions {
		data = encode(list)
	}
	of := sha256.Sum256(data) // what is recorded: digest only tells whether it has been
	if err := d.cfg.Record(ctx, resource, evidence.ImportBody{
		Kind: "mcp.tools", Source: "upstream", Query: "tools/list", Rows: len(list), Digest: hex.EncodeToString(of[:]), Data: data,
	}); err != nil {
		return fmt.Errorf("recording the tools of %s: %w", resource, err)
	}
	c.recorded = digest
	return nil
}

func sorted(tools map[string]*Tool) []*Tool {
	return slices.SortedFunc(maps.Values(tools), func(a, b *Tool) int { return cmp.Compare(a.Name, b.Name) })
}

// alert says which tools are held, if that was not said before; c.mu is held.
func (c *catalogue) alert(res *Resource, tools []*Tool) string {
	var held []string
	for _, t := range tools {
		why := t.Held(res)
		name := t.Name
		if why == heldName {
			name = "(unreadable)"
		}
		if why != "" {
			held = append(held, name+" ("+why+")")
		}
	}
	slices.Sort(held)
	said := strings.Join(held, ", ")
	if said == c.alerted || said == "" {
		c.alerted = said
		return ""
	}
	c.alerted = said
	more := ""
	if len(held) > 8 {
		held, more = held[:8], fmt.Sprintf(" and %d more", len(held)-8)
	}
	return "tools of " + res.Resource + " are held until somebody accepts them: " + strings.Join(held, ", ") + more
}
