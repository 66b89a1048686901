package postgres

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
)

// Request codes of the packets that may come before a StartupMessage, and the
// versions that we speak (PostgreSQL documentation, "Message Formats").
const (
	cancelRequest = 1234<<16 | 5678
	sslRequest    = 1234<<16 | 5679
	gssRequest    = 1234<<16 | 5680

	protocolMajor = 3
	protocolMinor = 2 // newest minor version; 3.1 was never used
)

// maxStartup bounds a startup packet, less its length (PostgreSQL's
// MAX_STARTUP_PACKET_LENGTH).
const maxStartup = 10000

// readStartup reads one packet of the startup phase and returns its code and
// what follows the code.
func readStartup(r io.Reader) (code uint32, rest []byte, err error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(head[:4])
	if size < 8 || size > 4+maxStartup {
		return 0, nil, violation("startup packet of %d bytes", size)
	}
	rest = make([]byte, size-8)
	if _, err := io.ReadFull(r, rest); err != nil {
		return 0, nil, err
	}
	return binary.BigEndian.Uint32(head[4:]), rest, nil
}

// startup is what an agent asks of its session.
type startup struct {
	user, database string
	minor          int      // of the protocol that will be spoken
	negotiate      bool     // the agent asked for something newer
	unknown        []string // protocol options that we don't know
	params         []param  // in the order given, options unfolded
}

type param struct{ name, value string }

// parseStartup parses a StartupMessage. What it holds is checked later, once
// it is known who asks.
func parseStartup(code uint32, rest []byte) (*startup, error) {
	major, minor := int(code>>16), int(code&0xffff)
	if major != protocolMajor {
		return nil, violation("unsupported protocol version %d.%d", major, minor)
	}
	s := &startup{minor: minor}
	if minor > protocolMinor {
		s.minor, s.negotiate = protocolMinor, true
	} else if minor == 1 {
		s.minor, s.negotiate = 0, true
	}
	p := body{b: rest}
	for {
		name := string(p.cstring())
		if name == "" {
			break
		}
		value := string(p.cstring())
		if p.bad {
			break
		}
		if err := s.set(name, value); err != nil {
			return nil, err
		}
	}
	if !p.done() {
		return nil, violation("malformed startup message")
	}
	if len(s.unknown) > 0 {
		s.negotiate = true
	}
	if s.user == "" {
		return nil, errors.New("no user name given")
	}
	return s, nil
}

func (s *startup) set(name, value string) error {
	switch {
	case name == "user":
		s.user = value
	case name == "database":
		s.database = value
	case strings.HasPrefix(name, "_pq_."):
		s.unknown = append(s.unknown, name)
	case name == "options":
		options, err := parseOptions(value)
		if err != nil {
			return err
		}
		s.params = append(s.params, options...)
	default:
		s.params = append(s.params, param{name, value})
	}
	return nil
}

// parseOptions parses the "options" parameter, which holds command-line
// arguments for the server. Only settings are understood: "-c name=value" and
// "--name=value".
func parseOptions(s string) ([]param, error) {
	args := splitOptions(s)
	var params []param
	for i := 0; i < len(args); i++ {
		arg := args[i]
		setting, ok := strings.CutPrefix(arg, "--")
		if !ok {
			setting, ok = strings.CutPrefix(arg, "-c")
			if ok && setting == "" {
				i++
				ok = i < len(args)
				if ok {
					setting = args[i]
				}
			}
		}
		name, value, assigned := strings.Cut(setting, "=")
		if !ok || !assigned || name == "" {
			return nil, fmt.Errorf("option %q is not a setting of the form -c name=value", arg)
		}
		params = append(params, param{strings.ReplaceAll(name, "-", "_"), value})
	}
	return params, nil
}

// splitOptions splits at white space; a backslash escapes what follows it
// (pg_split_opts in PostgreSQL's postinit.c).
func splitOptions(s string) []string {
	var args []string
	var arg []byte
	in := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s):
			i++
			arg, in = append(arg, s[i]), true
		case strings.IndexByte(" \t\n\v\f\r", c) >= 0:
			if in {
				args, arg, in = append(args, string(arg)), nil, false
			}
		default:
			arg, in = append(arg, c), true
		}
	}
	if in {
		args = append(args, string(arg))
	}
	return args
}

// allowedParameters are the settings that an agent may choose at startup, by
// their lower-case names. None of them changes who it is, what is logged, how
// texts are read, or where code comes from.
var allowedParameters = map[string]bool{
	"application_name":                    true,
	"client_encoding":                     true, // UTF8 only
	"client_min_messages":                 true,
	"bytea_output":                        true,
	"datestyle":                           true,
	"default_transaction_deferrable":      true,
	"default_transaction_isolation":       true,
	"default_transaction_read_only":       true,
	"extra_float_digits":                  true,
	"geqo":                                true,
	"idle_in_transaction_session_timeout": true,
	"idle_session_timeout":                true,
	"intervalstyle":                       true,
	"jit":                                 true,
	"lc_messages":                         true,
	"lock_timeout":                        true,
	"plan_cache_mode":                     true,
	"search_path":                         true,
	"statement_timeout":                   true,
	"timezone":                            true,
	"transaction_timeout":                 true,
	"work_mem":                            true,
}

// upstreamParams returns the settings for the upstream, or why the agent may
// not have those that it asked for.
func (s *startup) upstreamParams() (map[string]string, *failure) {
	out := map[string]string{"client_encoding": "UTF8"}
	for _, p := range s.params {
		name := strings.ToLower(p.name)
		switch {
		case name == "replication":
			if v := strings.ToLower(p.value); !slices.Contains([]string{"false", "off", "no", "0"}, v) {
				return nil, fatal(codeUnsupported, "replication connections are not let through", "connect without the replication parameter")
			}
			continue
		case !allowedParameters[name]:
			return nil, fatal(codeDenied, fmt.Sprintf("the startup parameter %.63q is not let through", p.name),
				"connect without it; allowed are "+strings.Join(parameterNames(), ", "))
		case name == "client_encoding":
			if !isUTF8(p.value) {
				return nil, fatal(codeParameter, fmt.Sprintf("client_encoding %.63q is not let through", p.value), "set client_encoding to UTF8")
			}
			continue
		}
		out[name] = p.value
	}
	return out, nil
}

// isUTF8 reports whether PostgreSQL takes a name for the encoding UTF8. Its
// names ignore case and all but letters and digits.
func isUTF8(name string) bool {
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, strings.ToLower(name))
	return clean == "utf8" || clean == "unicode"
}

func parameterNames() []string {
	names := make([]string, 0, len(allowedParameters))
	for n := range allowedParameters {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// appendNegotiate appends a NegotiateProtocolVersion: the newest minor version
// that we speak, and the options that we don't know.
func (s *startup) appendNegotiate(b []byte) []byte {
	start := len(b)
	b = append(b, 'v', 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(protocolMajor<<16|s.minor))
	b = binary.BigEndian.AppendUint32(b, uint32(len(s.unknown)))
	for _, o := range s.unknown {
		b = append(append(b, o...), 0)
	}
	binary.BigEndian.PutUint32(b[start+1:], uint32(len(b)-start-1))
	return b
}

// appendParameterStatus appends one ParameterStatus for each setting that the
// server reported, in a fixed order.
func appendParameterStatus(b []byte, statuses map[string]string) []byte {
	names := make([]string, 0, len(statuses))
	for n := range statuses {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		v := statuses[n]
		b = append(b, 'S')
		b = binary.BigEndian.AppendUint32(b, uint32(4+len(n)+1+len(v)+1))
		b = append(append(b, n...), 0)
		b = append(append(b, v...), 0)
	}
	return b
}

// parseParameterStatus is the inverse, for one message's body.
func parseParameterStatus(b []byte) (name, value string, ok bool) {
	p := body{b: b}
	name, value = string(p.cstring()), string(p.cstring())
	return name, value, p.done()
}

// readPassword reads the answer to a request for a password.
func readPassword(r io.Reader) (string, error) {
	var head [headerSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return "", err
	}
	size, err := frameSize(head[:])
	if err != nil {
		return "", err
	}
	if head[0] != 'p' || size > maxStartup {
		return "", violation("frame %q where a password was due", head[0])
	}
	b := make([]byte, size-headerSize)
	if _, err := io.ReadFull(r, b); err != nil {
		return "", err
	}
	if n := bytes.IndexByte(b, 0); n != len(b)-1 {
		return "", violation("malformed password message")
	}
	return string(b[:len(b)-1]), nil
}
