package reconcile

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// maxRows bounds the rows of one input.
const maxRows = 1 << 20

// table reads a CSV file with a header line, row by row.
type table struct {
	r       *csv.Reader
	columns []string
	row     []string
	rows    int
}

func newTable(data []byte) (*table, error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // spreadsheets begin with it
	if i := invalid(data); i >= 0 {
		line, column := place(data, i)
		return nil, at(line, column, "not UTF-8")
	}
	t := &table{r: csv.NewReader(bytes.NewReader(data))}
	t.r.ReuseRecord = true
	if err := t.next(); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, at(1, 1, "the file is empty: its first line must name the columns")
		}
		return nil, err
	}
	t.rows = 0
	for _, c := range t.row {
		t.columns = append(t.columns, strings.ToLower(strings.TrimSpace(c)))
	}
	return t, nil
}

// column returns the index of the column with a name.
func (t *table) column(name string) (int, error) {
	i := slices.Index(t.columns, strings.ToLower(name))
	if i < 0 {
		return 0, at(1, 1, "there is no column %q; there are %s", name, strings.Join(t.columns, ", "))
	}
	return i, nil
}

// next reads the next row; io.EOF is the end.
func (t *table) next() (err error) {
	t.row, err = t.r.Read()
	var parse *csv.ParseError
	switch {
	case errors.Is(err, io.EOF):
		return io.EOF
	case errors.As(err, &parse):
		return at(parse.Line, parse.Column, "%v", parse.Err)
	case err != nil:
		return err
	}
	if t.rows++; t.rows > maxRows {
		return fmt.Errorf("%w: more than %d rows", ErrInput, maxRows)
	}
	return nil
}

// fail says what is wrong with a field of the row.
func (t *table) fail(field int, format string, args ...any) error {
	line, column := t.r.FieldPos(field)
	return at(line, column, format, args...)
}

// text returns a field that people wrote, without what no id or name has.
func (t *table) text(field int) (string, error) {
	s := strings.TrimSpace(t.row[field])
	if err := plain(s); err != "" {
		return "", t.fail(field, "%s", err)
	}
	return s, nil
}

// time returns the time in a field, 0 for none.
func (t *table) time(field int) (int64, error) {
	us, err := moment(strings.TrimSpace(t.row[field]))
	if err != nil {
		return 0, t.fail(field, "%v", err)
	}
	return us, nil
}

// maxText bounds one field.
const maxText = 1000

func plain(s string) string {
	switch {
	case len(s) > maxText:
		return fmt.Sprintf("%d bytes in one field, at most %d", len(s), maxText)
	case strings.ContainsFunc(s, unicode.IsControl):
		return "a control character"
	}
	return ""
}

// moment reads a date, which is its midnight in UTC, or a time with its zone, as
// microseconds since the epoch. The empty text is 0.
func moment(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339Nano, "2006-01-02T15:04:05.999999999Z0700", "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05.999999999 MST"} {
		t, err := time.Parse(layout, s)
		if err != nil {
			continue
		}
		if zone, offset := t.Zone(); offset == 0 && zone != "UTC" && zone != "GMT" && zone != "" {
			return 0, fmt.Errorf("the zone %s of %q isn't known: write times in UTC", zone, s)
		}
		if t.UnixMicro() <= 0 {
			return 0, fmt.Errorf("%q is before 1970", s)
		}
		return t.UnixMicro(), nil
	}
	return 0, fmt.Errorf("%q is no date (2026-11-22) and no time (2026-11-22T09:30:00Z)", s)
}

// invalid returns the index of the first byte that isn't UTF-8, or -1.
func invalid(data []byte) int {
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && n <= 1 {
			return i
		}
		i += n
	}
	return -1
}

// place says where in a text a byte is.
func place(data []byte, offset int) (line, column int) {
	before := data[:min(max(offset, 0), len(data))]
	line = 1 + bytes.Count(before, []byte("\n"))
	return line, 1 + len(before) - (bytes.LastIndexByte(before, '\n') + 1)
}

// decode decodes JSON, and says where it is wrong.
func decode(data []byte, v any) error {
	if i := invalid(data); i >= 0 {
		line, column := place(data, i)
		return at(line, column, "not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	err := d.Decode(v)
	offset := int(d.InputOffset())
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("there is more behind its end")
		}
	}
	var syntax *json.SyntaxError
	var typed *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &syntax):
		offset = int(syntax.Offset) - 1
	case errors.As(err, &typed):
		offset = int(typed.Offset) - 1
		err = fmt.Errorf("%s is a %s, want %s", typed.Field, typed.Value, typed.Type)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		offset, err = len(data), errors.New("the file ends in the middle")
	}
	line, column := place(data, offset)
	return at(line, column, "%v", err)
}

// items are the elements of a JSON array, which know where in the input they
// stand.
type items[T any] []item[T]

type item[T any] struct {
	value T
	raw   []byte
	err   error // that it isn't one of T
}

// UnmarshalJSON implements json.Unmarshaler.
func (i *item[T]) UnmarshalJSON(b []byte) error {
	i.raw = bytes.Clone(b)
	i.err = json.Unmarshal(b, &i.value)
	return nil
}

// check says what is wrong with the first element that isn't one of T.
func (l items[T]) check(data []byte) error {
	n := 0
	for _, wrong := range l.in(data) {
		if err := l[n].err; err != nil {
			return wrong("%v", err)
		}
		n++
	}
	return nil
}

// in yields the elements, each with how to say what is wrong with it.
func (l items[T]) in(data []byte) iter.Seq2[*T, func(format string, args ...any) error] {
	return func(yield func(*T, func(string, ...any) error) bool) {
		from := 0
		for n := range l {
			if i := bytes.Index(data[from:], l[n].raw); i >= 0 {
				from += i
			}
			line, column := place(data, from)
			from += len(l[n].raw)
			if !yield(&l[n].value, func(format string, args ...any) error { return at(line, column, format, args...) }) {
				return
			}
		}
	}
}
