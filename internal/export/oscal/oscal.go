// Package oscal writes what a verifier found in a pack as assessment results of
// the Open Security Controls Assessment Language, version 1.2.2.
//
// In flow the verifier's report, which re-performed every check and control test,
// and the pack; out flows one JSON document. It has no clock and no die: the same
// pack and the same trust give the same bytes. What it can't say, and why it is
// management's evidence and nobody's opinion, is in docs/spec/oscal.md.
package oscal

import (
	"bufio"
	"crypto/sha1" //nolint:gosec // what RFC 9562 makes UUIDs of version 5 with
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/exhibit-gateway/exhibit/verify"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// Version is that of the language.
const Version = "1.2.2"

// ns is the namespace of the properties that OSCAL has no names for.
const ns = "urn:exhibit:oscal"

// space is the namespace of the UUIDs: a UUID that nobody else has.
var space = [16]byte{0x6a, 0x3d, 0x2f, 0x0e, 0x6c, 0x1b, 0x4a, 0x57, 0x9d, 0x0a, 0x2f, 0x1b, 0x7f, 0x6c, 0x9e, 0x54}

// ErrUnsound is returned for a pack that is not to be relied on.
var ErrUnsound = errors.New("the pack is not to be relied on, so nothing is said of it")

// mostListed bounds the agents, resources and exports that are listed; the pack
// has all.
const mostListed = 10_000

// Results writes the assessment results of a pack. The report is the verifier's,
// of this pack.
func Results(w io.Writer, pack fs.FS, r *verify.Report) error {
	for _, c := range r.Failed() {
		if c.Kind == verify.Integrity {
			return fmt.Errorf("%w: %s (%s)", ErrUnsound, c.ID, c.Title)
		}
	}
	if r.Manifest == nil {
		return ErrUnsound
	}
	m := &maker{pack: pack, r: r, m: r.Manifest, resources: make(map[string]string)}
	if err := m.seed(); err != nil {
		return err
	}
	result, err := m.result()
	if err != nil {
		return err
	}
	doc := map[string]any{"assessment-results": map[string]any{
		"uuid":      m.id("assessment-results"),
		"metadata":  m.metadata("Management evidence of access by agents: " + m.m.Organisation),
		"import-ap": map[string]any{"href": "#" + m.note(), "remarks": "There is no assessment plan: see the resource."},
		"results":   []any{result},
		"back-matter": map[string]any{"resources": append(m.backMatter,
			map[string]any{
				"uuid": m.id("catalogue"), "title": "Catalogue of the controls and objectives", "description": "An OSCAL catalogue. Its objectives are the control tests and checks, by their ids.",
				"base64": map[string]any{"filename": "catalogue.json", "media-type": "application/oscal+json", "value": base64.StdEncoding.EncodeToString(m.catalogue())},
			})},
	}}
	return encode(w, doc)
}

func encode(w io.Writer, doc any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	return e.Encode(doc)
}

// maker makes one document.
type maker struct {
	pack fs.FS
	r    *verify.Report
	m    *verify.Manifest
	root string // what all ids derive from

	resources  map[string]string // ids of files of the pack, by path
	backMatter []any
}

// seed ties all ids to the pack and to what was found in it.
func (m *maker) seed() error {
	manifest, err := fs.ReadFile(m.pack, verify.ManifestFile)
	if err != nil {
		return fmt.Errorf("reading the manifest: %w", err)
	}
	checks, err := json.Marshal(m.r.Checks)
	if err != nil {
		return fmt.Errorf("writing what was checked: %w", err)
	}
	sum := sha256.Sum256(manifest)
	all := sha256.Sum256(append(sum[:], checks...))
	m.root = hex.EncodeToString(all[:])
	m.resource(verify.ManifestFile, "The pack's manifest: names every file with its digest", hex.EncodeToString(sum[:]))
	return nil
}

// id is the UUID of a thing of the document (RFC 9562, version 5).
func (m *maker) id(of string) string {
	sum := sha1.Sum(append(space[:], m.root+"/"+of...)) //nolint:gosec // as above
	u := sum[:16]
	u[6], u[8] = u[6]&0x0f|0x50, u[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// note says why there is no plan, and returns the resource's id.
func (m *maker) note() string {
	id := m.id("note")
	m.backMatter = append(m.backMatter, map[string]any{
		"uuid": id, "title": "In place of an assessment plan",
		"description": "OSCAL wants assessment results to name the plan that they follow. No assessor wrote one. These are the tests that the gateway's evidence is put to whoever looks at it; which they are is in the catalogue. An assessor who relies on them puts their own plan here.",
	})
	return id
}

// resource cites a file of the pack and returns the resource's id.
func (m *maker) resource(path, title, digest string) string {
	if id := m.resources[path]; id != "" {
		return id
	}
	id := m.id("file/" + path)
	m.resources[path] = id
	link := map[string]any{"href": path}
	if digest != "" {
		link["hashes"] = []any{map[string]any{"algorithm": "SHA-256", "value": digest}}
	}
	m.backMatter = append(m.backMatter, map[string]any{"uuid": id, "title": title, "rlinks": []any{link}})
	return id
}

// file cites a file that the manifest names; "" when it names none.
func (m *maker) file(path string) string {
	i, found := slices.BinarySearchFunc(m.m.Files, path, func(f verify.File, p string) int { return strings.Compare(f.Path, p) })
	if !found {
		return ""
	}
	return m.resource(path, "File of the pack: "+path, m.m.Files[i].SHA256)
}

func (m *maker) metadata(title string) map[string]any {
	org := m.id("organisation")
	return map[string]any{
		"title": line(title), "last-modified": m.m.Params.To, "version": "1", "oscal-version": Version,
		"roles":               []any{map[string]any{"id": "management", "title": "Management of the organisation"}},
		"parties":             []any{map[string]any{"uuid": org, "type": "organization", "name": orElse(plain(m.m.Organisation), "none")}},
		"responsible-parties": []any{map[string]any{"role-id": "management", "party-uuids": []any{org}}},
		"remarks":             "Management evidence. It was made by the organisation's own gateway and re-performed by its verifier, from the pack alone. It is not an assessor's work and no opinion. " + m.r.Integrity,
	}
}

func (m *maker) result() (map[string]any, error) {
	gateway := m.id("component/gateway")
	agents, err := m.agents()
	if err != nil {
		return nil, err
	}
	systems, err := m.systems()
	if err != nil {
		return nil, err
	}
	exports, err := m.exports()
	if err != nil {
		return nil, err
	}
	observations, findings := m.findings(gateway)
	version := m.m.Generator.Version
	local := map[string]any{"components": append([]any{map[string]any{
		"uuid": gateway, "type": "software", "title": "Exhibit gateway " + m.m.Gateway, "status": map[string]any{"state": "operational"},
		"description": "Access gateway for agents. It decides each command and writes the evidence before it passes the command on.",
		"props":       props("version", version, "log", m.m.Origin),
	}}, systems...)}
	if len(agents) > 0 {
		local["users"] = agents
	}
	out := map[string]any{
		"uuid": m.id("result"), "title": "Access by agents, " + m.m.Params.From + " to " + m.m.Params.To,
		"description": m.r.Summary + " Every test is over its whole population, none over a sample. A test without an input is not tested, and one of a control that did not need to operate has no occurrence: each has an observation and no finding.",
		"start":       m.m.Params.From, "end": m.m.Params.To,
		"props":             props("first-record", m.m.Range.First.String(), "last-record", m.m.Range.Last.String(), "records", strconv.FormatUint(m.m.Range.Records, 10), "pack", m.root),
		"local-definitions": local,
		"reviewed-controls": reviewed(m.tests()),
		"observations":      observations,
	}
	if len(findings) > 0 {
		out["findings"] = findings
	}
	if len(exports) > 0 {
		out["assessment-log"] = map[string]any{"entries": exports}
	}
	return out, nil
}

// tests are what was checked, by id.
func (m *maker) tests() map[string]bool {
	had := make(map[string]bool)
	for _, c := range m.r.Checks {
		had[c.ID] = true
	}
	return had
}

// findings has an observation of each test, and a finding of each that had
// something to test.
func (m *maker) findings(tool string) (observations, findings []any) {
	objective := objectives()
	for _, c := range m.r.Checks {
		id := m.id("observation/" + c.ID)
		evidence := []any{}
		cite := func(path, what string) {
			if r := m.file(path); r != "" {
				evidence = append(evidence, map[string]any{"href": "#" + r, "description": what})
			}
		}
		switch {
		case c.Kind == verify.Integrity:
			evidence = append(evidence, map[string]any{"href": "#" + m.resources[verify.ManifestFile], "description": "What the pack holds"})
		default:
			cite(workpaper.PopulationFile(c.ID), "The population, or its count")
			cite(verify.TestsFile, "The test with its exceptions, as the pack has it")
			if c.Failed > 0 {
				cite(verify.ControlPath("exceptions")+".csv", "The exceptions")
			}
		}
		o := map[string]any{
			"uuid": id, "title": line(c.ID), "description": text(c.Title + ". " + outcome(&c.Test)), "methods": []any{method(c)}, "collected": m.m.Params.To,
			"props":   props("state", string(c.State), "population", strconv.FormatUint(c.Population, 10), "exceptions", strconv.FormatUint(c.Failed, 10)),
			"origins": []any{map[string]any{"actors": []any{map[string]any{"type": "tool", "actor-uuid": tool}}}},
		}
		if len(evidence) > 0 {
			o["relevant-evidence"] = evidence
		}
		if c.Note != "" {
			o["remarks"] = text(c.Note)
		}
		observations = append(observations, o)
		state := map[workpaper.State]string{workpaper.Pass: "satisfied", workpaper.Fail: "not-satisfied"}[c.State]
		if state == "" || !objective[c.ID] {
			continue
		}
		findings = append(findings, map[string]any{
			"uuid": m.id("finding/" + c.ID), "title": line(c.ID), "description": text(c.Title + ". " + outcome(&c.Test)),
			"target":               map[string]any{"type": "objective-id", "target-id": c.ID, "status": map[string]any{"state": state, "reason": string(c.State)}},
			"related-observations": []any{map[string]any{"observation-uuid": id}},
		})
	}
	return observations, findings
}

// method is how an observation was made. All is re-performed but what compares
// things that are there.
func method(c *verify.Check) string {
	if c.State == workpaper.NotTested {
		return "EXAMINE"
	}
	return "TEST"
}

func outcome(t *workpaper.Test) string {
	switch t.State {
	case workpaper.Pass, workpaper.Fail:
		return fmt.Sprintf("%d of %d are exceptions (%s)", t.Failed, t.Population, orElse(t.Of, "checked"))
	case workpaper.NoOccurrence:
		return "There was nothing to test: the control did not need to operate"
	}
	return "Not tested"
}

// agents are the registered ones, as users.
func (m *maker) agents() (list []any, err error) {
	err = m.rows(verify.TablePath("agents"), func(row map[string]any) {
		id := cell(row, "agent_id")
		if id == "" || len(list) == mostListed {
			return
		}
		user := map[string]any{"uuid": m.id("user/" + id), "title": line(id), "short-name": orElse(plain(id), "none")}
		if p := cell(row, "purpose"); p != "" {
			user["description"] = text(p)
		}
		list = append(list, having(user, props("status", cell(row, "status"), "owner", cell(row, "owner_id"))))
	})
	return list, err
}

// systems are those that agents reached or tried to.
func (m *maker) systems() (list []any, err error) {
	seen := make(map[string]bool)
	err = m.rows(verify.TablePath("sessions"), func(row map[string]any) {
		name := cell(row, "resource")
		if name == "" || seen[name] || len(list) == mostListed {
			return
		}
		seen[name] = true
		list = append(list, having(map[string]any{
			"uuid": m.id("component/resource/" + name), "type": "system", "title": line(name), "status": map[string]any{"state": "operational"},
			"description": "A system that agents reach through the gateway",
		}, props("protocol", cell(row, "protocol"))))
	})
	return list, err
}

// exports are the packs that were made in the period.
func (m *maker) exports() (list []any, err error) {
	err = m.rows(verify.TablePath("evidence_access"), func(row map[string]any) {
		if cell(row, "kind") != "pack.export" || len(list) == mostListed {
			return
		}
		at := cell(row, "at")
		list = append(list, map[string]any{
			"uuid": m.id("export/" + cell(row, "pos")), "title": "An evidence pack was made", "start": at, "end": at,
			"description": text(fmt.Sprintf("By %s, of %s to %s", orElse(cell(row, "reader"), "the gateway"), cell(row, "from"), cell(row, "to"))),
			"props":       props("record", cell(row, "pos")),
		})
	})
	return list, err
}

// rows reads a table of the pack, which the verifier has made again and
// compared.
func (m *maker) rows(path string, fn func(map[string]any)) error {
	f, err := m.pack.Open(path + ".jsonl")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	defer f.Close()
	d := json.NewDecoder(bufio.NewReader(f))
	for {
		var row map[string]any
		if err := d.Decode(&row); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("reading %s: %w", path, err)
		}
		fn(row)
	}
}

func cell(row map[string]any, name string) string {
	s, _ := row[name].(string)
	return s
}

// props are properties by name; those without a value are left out. An OSCAL
// string has no blank at its ends and no line end.
func props(pairs ...string) (list []any) {
	for i := 0; i < len(pairs); i += 2 {
		if v := plain(pairs[i+1]); v != "" {
			list = append(list, map[string]any{"name": pairs[i], "ns": ns, "value": v})
		}
	}
	return list
}

// having adds properties, if there are any: OSCAL has no empty lists.
func having(thing map[string]any, props []any) map[string]any {
	if len(props) > 0 {
		thing["props"] = props
	}
	return thing
}

// plain is a text without markup: visible, on one line, and without a blank at
// its ends.
func plain(s string) string { return strings.TrimSpace(workpaper.Visible(s)) }

// text is what people and agents wrote, in a place where OSCAL reads markup
// (CommonMark): none of it is any.
func text(s string) string { return orElse(markup.Replace(plain(s)), "none") }

// line is text for a title.
func line(s string) string { return text(s) }

var markup = strings.NewReplacer(`\`, `\\`, "`", "\\`", "*", `\*`, "_", `\_`, "[", `\[`, "]", `\]`, "<", `\<`, ">", `\>`, "&", `\&`, "#", `\#`, "~", `\~`, "^", `\^`, "|", `\|`, "{", `\{`, "}", `\}`, "!", `\!`)

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
