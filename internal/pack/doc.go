// Package pack makes an evidence pack: it selects the blocks of a period,
// proves them, and writes the tables that the verifier will write again.
//
// Blocks, tiles and body seeds flow in from the gateway's archive, log and key
// store; one zip file flows out, in a fixed order of files and without a clock,
// so that the same log and the same parameters give the same bytes. What is in
// it is docs/spec/pack.md's; what is shared with the reading side (manifest,
// tables, tests) is verify's and workpaper's. Tables are spooled to disk and
// blocks stream through, so memory doesn't grow with the period.
package pack
