// Package workpaper turns records into what an auditor works with.
//
// Records flow in, in log order: first those before the period that set the
// scene (Fold.Opening), then those of the period (Fold.Record). Rows of the
// populations flow out as they are complete, and at the end come the access
// listings of both ends of the period, the control totals, and the tests with
// their exceptions. The gateway answers the three questions (who, allowed, did)
// from the same rows, so that the command line and a pack can't differ.
//
// The package is pure: no I/O but the writers it is given, no clock, and the
// same records give the same bytes. It holds what is open (sessions, commands,
// tokens that haven't expired) and the registry, and nothing that has ended,
// so a year folds in the memory of a busy minute. docs/spec/pack.md lists the
// tables, their columns and the tests.
package workpaper
