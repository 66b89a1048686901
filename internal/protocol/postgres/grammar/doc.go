// Package grammar asks PostgreSQL's own grammar what a text says.
//
// In goes a statement as an agent wrote it; out come Facts: what the text uses
// and how, with every name as written, and a text without comments, constants
// or names. Nothing here knows a catalogue, a search_path or a policy; package
// sql puts those to the facts.
//
// The grammar is C and the texts are hostile: some kill it. So it runs in
// child processes that have no keys, no files, no network and little memory.
// Pool starts them, replaces those that die, and says which text did it; Main
// is what runs in them, and is all of this package that calls C.
package grammar
