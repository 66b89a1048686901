package verify

import (
	"fmt"

	"github.com/exhibit-gateway/exhibit/ledger"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// tables writes the populations again and compares both forms of each with the
// pack's as they come.
type tables struct {
	encoders  map[string][2]workpaper.Encoder
	comparers []*comparer
}

func (t *tables) begin(f *files, c *Check, populations []workpaper.Table) {
	t.encoders = make(map[string][2]workpaper.Encoder)
	for _, p := range populations {
		csv, jsonl := f.compare(TablePath(p.Name)+".csv", c), f.compare(TablePath(p.Name)+".jsonl", c)
		t.comparers = append(t.comparers, csv, jsonl)
		toCSV, err := workpaper.NewCSV(csv, p.Columns)
		if err != nil {
			c.except("%s: %.200s", p.Name, err)
		}
		toJSONL, err := workpaper.NewJSONL(jsonl, p.Columns)
		if err != nil {
			c.except("%s: %.200s", p.Name, err)
		}
		t.encoders[p.Name] = [2]workpaper.Encoder{toCSV, toJSONL}
	}
}

// Row implements workpaper.Out.
func (t *tables) Row(table string, cells []string) error {
	forms, ok := t.encoders[table]
	if !ok {
		return fmt.Errorf("a row of table %q, which there is not", table)
	}
	if err := forms[0].Row(cells); err != nil {
		return err
	}
	return forms[1].Row(cells)
}

func (t *tables) close() {
	for _, c := range t.comparers {
		c.close()
	}
}

// CutSize is the size of a block in a pack of a level: its header line and the
// sections that the level discloses.
func CutSize(h *ledger.Header, level string) uint64 {
	size := uint64(len(h.Encode()) + 1)
	for _, s := range h.Sections[:Sections(level)] {
		size += s.Size
	}
	return size
}
