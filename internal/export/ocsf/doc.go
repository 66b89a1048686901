// Package ocsf writes records as events of the Open Cybersecurity Schema
// Framework, version 1.8.0, for those who watch many systems in one place.
//
// In flow records with head and body, in any order; out flows one JSON object a
// line for each. An event is a function of the log alone: what a record leaves to
// another (a result to its intent, a command to its session) is looked up by
// position, so that an export which begins in the middle, or begins again, writes
// the same bytes. docs/spec/ocsf.md has the mapping. Sealed parts are never seen.
package ocsf
