// Package verify checks an evidence pack offline.
//
// A pack flows in as a file system, with what the auditor trusts: the log's
// key, witnesses, checkpoints kept from earlier visits. Out flows a report that
// says what passed over how many records, what failed and where, and what was
// not tested and why. Nothing is believed because the pack says it: the tree is
// rebuilt from tiles, blocks from leaves, records from blocks, the registry
// from records, every table from records and registry, and every decision is
// made again.
//
// Packs are hostile. They are read as streams, each file once, and held to the
// sizes of the format; memory grows with what is open at once and with the
// number of sessions, never with what a file claims. docs/spec/pack.md lists
// the checks by their ids.
package verify
