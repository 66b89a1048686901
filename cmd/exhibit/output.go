package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// show writes a table: v as JSON with --json, else t as CSV or text.
func (a *app) show(v any, t workpaper.Table) error {
	switch {
	case a.json:
		return a.writeJSON(v)
	case a.csv:
		w := bufio.NewWriter(a.out)
		if err := t.WriteCSV(w); err != nil {
			return fmt.Errorf("writing: %w", err)
		}
		return w.Flush()
	}
	if len(t.Rows) == 0 {
		fmt.Fprintln(a.err, "nothing to show")
		return nil
	}
	t = dense(t)
	w := bufio.NewWriter(a.out)
	if err := t.WriteText(w, a.cellWidth(len(t.Columns))); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return w.Flush()
}

// dense is t without the columns that are empty in every row: people look at
// text, and programs, which count columns, read the other forms.
func dense(t workpaper.Table) workpaper.Table {
	out := workpaper.Table{Name: t.Name, Rows: make([][]string, len(t.Rows))}
	for i, c := range t.Columns {
		if !slices.ContainsFunc(t.Rows, func(r []string) bool { return i < len(r) && r[i] != "" }) {
			continue
		}
		out.Columns = append(out.Columns, c)
		for j, r := range t.Rows {
			cell := ""
			if i < len(r) {
				cell = r[i]
			}
			out.Rows[j] = append(out.Rows[j], cell)
		}
	}
	return out
}

// cellWidth is the most that a cell may take on a terminal: a long one must not
// break the lines of all rows. Elsewhere nothing is cut.
func (a *app) cellWidth(columns int) int {
	if !a.terminal || a.width == 0 {
		return 0
	}
	return max(24, 2*a.width/max(columns, 1))
}

// fields writes names and values, one per line; empty values are left out.
func (a *app) fields(v any, pairs ...string) error {
	t := workpaper.Table{Columns: columns("field", "value")}
	width := 0
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			t.Rows = append(t.Rows, []string{pairs[i], pairs[i+1]})
			width = max(width, len(pairs[i]))
		}
	}
	if a.json || a.csv {
		return a.show(v, t)
	}
	for _, r := range t.Rows {
		if _, err := fmt.Fprintf(a.out, "%-*s  %s\n", width, r[0], workpaper.Visible(r[1])); err != nil {
			return fmt.Errorf("writing: %w", err)
		}
	}
	return nil
}

// writeJSON writes v. What a terminal could obey, or the eye doesn't see, is
// escaped: JSON's own rules leave much of it as it is.
func (a *app) writeJSON(v any) error {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	_, err := io.WriteString(a.out, escapeHidden(b.String()))
	return err
}

// escapeHidden writes the characters of JSON text that workpaper.Visible would
// change as \u escapes. Line ends and spaces are the encoder's own.
func escapeHidden(s string) string {
	var b strings.Builder
	for i, r := range s {
		if r < 0x7f || workpaper.Visible(s[i:i+utf8.RuneLen(r)]) == s[i:i+utf8.RuneLen(r)] {
			b.WriteRune(r)
			continue
		}
		if r > 0xffff {
			fmt.Fprintf(&b, `\u%04x\u%04x`, (r-0x10000)>>10+0xd800, (r-0x10000)&0x3ff+0xdc00)
			continue
		}
		fmt.Fprintf(&b, `\u%04x`, r)
	}
	return b.String()
}

// say writes a line for people; with --json nobody reads it.
func (a *app) say(format string, args ...any) {
	if !a.json && !a.csv {
		fmt.Fprintln(a.out, workpaper.Visible(fmt.Sprintf(format, args...)))
	}
}

func columns(names ...string) []workpaper.Column {
	list := make([]workpaper.Column, len(names))
	for i, n := range names {
		list[i].Name = n
	}
	return list
}

// stamp writes a time as people read it; zero is nothing.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

func asTable(t api.Table) workpaper.Table {
	return workpaper.Table{Name: t.Name, Columns: columns(t.Columns...), Rows: t.Rows}
}
