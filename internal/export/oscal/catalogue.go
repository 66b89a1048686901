package oscal

import (
	"bytes"
	"slices"

	"github.com/exhibit-gateway/exhibit/workpaper"
)

// objectives are the ids of all objectives: the tests and checks that a control
// names.
func objectives() map[string]bool {
	all := make(map[string]bool)
	for _, c := range workpaper.Controls() {
		for _, id := range slices.Concat(c.Tests, c.Checks) {
			all[id] = true
		}
	}
	return all
}

// reviewed selects the controls and the objectives that were tested.
func reviewed(had map[string]bool) map[string]any {
	controls, chosen, listed := []any{}, []any{}, make(map[string]bool)
	for _, c := range workpaper.Controls() {
		tested := false
		for _, id := range slices.Concat(c.Tests, c.Checks) {
			if tested = tested || had[id]; had[id] && !listed[id] {
				listed[id] = true
				chosen = append(chosen, map[string]any{"objective-id": id})
			}
		}
		if tested {
			controls = append(controls, map[string]any{"control-id": c.ID})
		}
	}
	return map[string]any{
		"description":                  "Controls of the catalogue in the back matter. Those without a test are left to the entity, and are not among them.",
		"control-selections":           []any{map[string]any{"include-controls": controls}},
		"control-objective-selections": []any{map[string]any{"include-objectives": chosen}},
	}
}

// catalogue is the OSCAL catalogue of the controls of this version. A test that
// stands behind several controls is the objective of the first, and the others
// lead to it.
func (m *maker) catalogue() []byte {
	titles := make(map[string]string)
	for _, c := range m.r.Checks {
		titles[c.ID] = c.Title
	}
	defined := make(map[string]bool)
	groups := []any{}
	for _, a := range workpaper.Artifacts() {
		controls := []any{}
		for _, c := range workpaper.Controls() {
			if c.Artifact != a.ID {
				continue
			}
			control := map[string]any{"id": c.ID, "title": line(c.About), "props": append(append(listOf("criterion", c.Criteria), listOf("nist-800-53", c.NIST)...), listOf("iso-27001", c.ISO)...)}
			parts, links := []any{map[string]any{"id": c.ID + "_smt", "name": "statement", "prose": text(c.About)}}, []any{}
			for _, id := range slices.Concat(c.Tests, c.Checks) {
				if defined[id] {
					links = append(links, map[string]any{"href": "#" + id, "rel": "related"})
					continue
				}
				defined[id] = true
				parts = append(parts, map[string]any{"id": id, "name": "assessment-objective", "prose": text(orElse(titles[id], id))})
			}
			for _, said := range []string{c.Absent, c.Left} {
				if said != "" {
					parts = append(parts, map[string]any{"name": "guidance", "prose": text("Left to the entity: " + said)})
				}
			}
			if control["parts"] = parts; len(links) > 0 {
				control["links"] = links
			}
			controls = append(controls, control)
		}
		if len(controls) > 0 {
			groups = append(groups, map[string]any{"id": a.ID, "title": line(a.About), "controls": controls})
		}
	}
	version := orElse(m.m.Generator.Version, "unknown")
	doc := map[string]any{"catalog": map[string]any{
		"uuid": m.id("catalogue/document"),
		"metadata": map[string]any{
			"title": "Controls that Exhibit's evidence speaks to", "last-modified": m.m.Params.To, "version": version, "oscal-version": Version,
			"remarks": "Criteria and controls of other catalogues are named by their numbers and described in our own words.",
		},
		"groups": groups,
	}}
	var b bytes.Buffer
	if err := encode(&b, doc); err != nil {
		panic("oscal: the catalogue can't be written: " + err.Error()) // it holds texts and lists of them
	}
	return b.Bytes()
}

func listOf(name string, values []string) (list []any) {
	for _, v := range values {
		list = append(list, props(name, v)...)
	}
	return list
}
