// Package ledger is the reading side of the log: it turns the bytes of blocks,
// tiles and checkpoints, all of which may come from an adversary, into records
// that are proven to stand where they say.
//
// A block is a run of records of one gateway and one boot. Its header commits
// to them by an RFC 6962 root, to its sections by their digests, and to the
// header before it; header n is leaf n of the gateway's log, a C2SP tlog-tiles
// tree whose checkpoints are signed notes. So a verified checkpoint proves
// headers, a header proves record heads, and a head proves body and sealed
// part. docs/spec/log.md is the specification.
//
// Block files, tiles and verifiers flow in; records and errors flow out. The
// package holds no key and reads nothing but what it is given. [Build], the
// writing side of a block, is here so that tests and other implementations
// have it; chunks of sealed parts come to it encrypted.
package ledger
