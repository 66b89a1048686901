// Package evidence is the vocabulary of Exhibit: what a record of access
// holds, how its bytes look, and how its parts are committed to.
//
// A record has a head, a body and a sealed part. The head is always disclosed,
// has exactly one encoding, and its bytes are what the log hashes. The body
// (level L1) and the sealed part (level L2) hang on the head by one salted
// commitment, so that either can be withheld or erased and the head still
// proves what it proved. docs/spec/record.md is the specification; the test
// vectors beside it are checked by this package's tests.
//
// Nothing flows in but values and nothing flows out but bytes: the package has
// no I/O, no clock, and imports only the standard library, so that an auditor
// can read all of it.
package evidence
