package reconcile

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Log is a stretch of the log of a PostgreSQL server.
type Log struct {
	Body        evidence.ImportBody
	First, Last int64 // times of its first and last line; 0 when it has none
	Read        int   // bytes up to the end of the last line that was taken
}

// Fields of a line of the csvlog format, of PostgreSQL 13 and later. Later ones
// have more behind them.
const (
	csvTime     = 0
	csvUser     = 1
	csvDatabase = 2
	csvPID      = 3
	csvFrom     = 4
	csvSession  = 5
	csvStart    = 8
	csvMessage  = 13
	csvFields   = 23
)

// authorized begins the line that a server writes once it has let a session in
// (log_connections), in English.
const authorized = "connection authorized: "

// logLine is what is read of a line.
type logLine struct {
	at      int64
	message string
	row     evidence.ConnectionRow
}

// Connections reads the sessions that a PostgreSQL server let in, from its log in
// the format csvlog (CSV) or jsonlog (JSON). Nothing else of the log is kept.
// Lines later than until, if it isn't 0, and one that isn't whole yet, are left
// for later.
func Connections(in Input, until int64) (Log, error) {
	next, err := logLines(in)
	if err != nil {
		return Log{}, err
	}
	var l Log
	var rows []evidence.ConnectionRow
	lines := 0
	for {
		line, end, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return Log{}, err
		}
		if until != 0 && line.at > until {
			break
		}
		if l.First == 0 {
			l.First = line.at
		}
		l.Last, l.Read = max(l.Last, line.at), end
		if lines++; strings.HasPrefix(line.message, authorized) {
			line.row.At = line.at
			for _, s := range []*string{&line.row.Session, &line.row.User, &line.row.Database, &line.row.Client} {
				*s = strings.ToValidUTF8(*s, "\ufffd") // names are whatever a client sent
			}
			rows = append(rows, line.row)
		}
	}
	slices.SortStableFunc(rows, func(a, b evidence.ConnectionRow) int { return cmp.Compare(a.At, b.At) })
	taken := in
	taken.Data = in.Data[:l.Read]
	l.Body, err = body(evidence.ImportConnections, taken, lines, rows)
	return l, err
}

// logLines returns how to get the next line of a log, with where it ends.
func logLines(in Input) (func() (logLine, int, error), error) {
	switch in.Format {
	case CSV:
		return csvLines(in.Data), nil
	case JSON:
		return jsonLines(in.Data), nil
	}
	return nil, fmt.Errorf("%w: logs of PostgreSQL come as %s (csvlog) or %s (jsonlog), not as %q", ErrInput, CSV, JSON, in.Format)
}

func csvLines(data []byte) func() (logLine, int, error) {
	r := csv.NewReader(bytes.NewReader(data))
	r.FieldsPerRecord, r.ReuseRecord = -1, true
	whole := 0 // where the last line ends
	fail := func(field int, format string, args ...any) error {
		line, column := r.FieldPos(field)
		return at(line, column, format, args...)
	}
	return func() (l logLine, end int, err error) {
		f, err := r.Read()
		var parse *csv.ParseError
		switch {
		case errors.Is(err, csv.ErrQuote) && r.InputOffset() >= int64(len(data)) && bytes.Count(data[whole:], []byte{'"'})%2 == 1:
			return l, 0, io.EOF // cut off in a text that goes on
		case errors.As(err, &parse):
			return l, 0, at(parse.Line, parse.Column, "%v", parse.Err)
		case err != nil:
			return l, 0, err
		}
		end = int(r.InputOffset())
		whole = end
		if data[end-1] != '\n' {
			return l, 0, io.EOF // still being written
		}
		if len(f) < csvFields {
			return l, 0, fail(0, "%d fields, a line of csvlog has %d or more", len(f), csvFields)
		}
		if l.at, err = moment(f[csvTime]); err != nil {
			return l, 0, fail(csvTime, "%v: set log_timezone to UTC", err)
		}
		if l.message = f[csvMessage]; !strings.HasPrefix(l.message, authorized) {
			return l, end, nil
		}
		l.row = evidence.ConnectionRow{Session: f[csvSession], User: f[csvUser], Database: f[csvDatabase]}
		if f[csvFrom] != localSocket {
			l.row.Client = f[csvFrom]
			if i := strings.LastIndexByte(l.row.Client, ':'); i > 0 {
				l.row.Client = net.JoinHostPort(l.row.Client[:i], l.row.Client[i+1:])
			}
		}
		pid, err := strconv.ParseUint(f[csvPID], 10, 32)
		if err != nil {
			return l, 0, fail(csvPID, "%q is no process id", f[csvPID])
		}
		l.row.PID = uint32(pid)
		if l.row.Start, err = moment(f[csvStart]); err != nil || l.row.Start == 0 {
			return l, 0, fail(csvStart, "%q is no time: set log_timezone to UTC", f[csvStart])
		}
		return l, end, nil
	}
}

// localSocket is what a log says of a session over a unix socket.
const localSocket = "[local]"

// jsonLine is a line of jsonlog.
type jsonLine struct {
	Timestamp string `json:"timestamp"`
	User      string `json:"user"`
	Database  string `json:"dbname"`
	PID       uint32 `json:"pid"`
	Host      string `json:"remote_host"`
	Port      int    `json:"remote_port"`
	Session   string `json:"session_id"`
	Start     string `json:"session_start"`
	Message   string `json:"message"`
}

func jsonLines(data []byte) func() (logLine, int, error) {
	from, number := 0, 0
	return func() (l logLine, end int, err error) {
		n := bytes.IndexByte(data[from:], '\n')
		if n < 0 {
			return l, 0, io.EOF // there is none, or it is still being written
		}
		number++
		var j jsonLine
		if err := json.Unmarshal(data[from:from+n], &j); err != nil {
			return l, 0, at(number, 1, "%v", err)
		}
		from += n + 1
		if l.at, err = moment(j.Timestamp); err != nil || l.at == 0 {
			return l, 0, at(number, 1, "timestamp %q is no time: set log_timezone to UTC", j.Timestamp)
		}
		if l.message = j.Message; !strings.HasPrefix(l.message, authorized) {
			return l, from, nil
		}
		l.row = evidence.ConnectionRow{Session: j.Session, User: j.User, Database: j.Database, PID: j.PID}
		if j.Port != 0 {
			l.row.Client = net.JoinHostPort(j.Host, strconv.Itoa(j.Port))
		}
		if l.row.Start, err = moment(j.Start); err != nil || l.row.Start == 0 {
			return l, 0, at(number, 1, "session_start %q is no time: set log_timezone to UTC", j.Start)
		}
		return l, from, nil
	}
}

// Privileges is the import of what the gateway's account at a server may do.
func Privileges(source, query, role string, rows []evidence.PrivilegeRow, read int) (evidence.ImportBody, error) {
	b, err := body(evidence.ImportPrivileges, Input{Source: source, Query: query, Params: map[string]string{"role": role}}, read, rows)
	b.File = ""
	return b, err
}

// Config is the import of how a server lets people in. Unread says of kinds of
// rows what of them couldn't be read.
func Config(source, query string, rows []evidence.ConfigRow, unread map[string]string) (evidence.ImportBody, error) {
	b, err := body(evidence.ImportConfig, Input{Source: source, Query: query, Params: unread}, len(rows), rows)
	b.File = ""
	return b, err
}

// Counters is the import of counters that were read.
func Counters(source, query string, rows []evidence.CounterRow, at int64) (evidence.ImportBody, error) {
	b, err := body(evidence.ImportCounters, Input{Source: source, Query: query}, len(rows), rows)
	b.File, b.Extracted = "", at
	return b, err
}
