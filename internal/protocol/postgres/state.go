package postgres

import "strings"

// State is what is known of a session and that the meaning of its texts
// depends on.
type State struct {
	// SearchPath is the setting's value, "" for the server's default.
	SearchPath string
	// Unreadable: the server lexes texts otherwise than the grammar does.
	Unreadable bool
}

// Effect is a change of a session's state by a statement.
type Effect struct {
	Kind string
}

func (s *State) start(params map[string]string) { s.SearchPath = params["search_path"] }

// report takes in a ParameterStatus.
func (s *State) report(name, value string) {
	switch name {
	case "client_encoding":
		s.Unreadable = s.Unreadable || !isUTF8(value)
	case "standard_conforming_strings":
		s.Unreadable = s.Unreadable || strings.ToLower(value) != "on"
	case "search_path": // reported from PostgreSQL 18 on
		s.SearchPath = value
	}
}

// apply takes in what a statement changed. What a failed one has left is
// unknown.
func (s *State) apply(effects []Effect, ok bool) {}
