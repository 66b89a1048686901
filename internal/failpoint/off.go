//go:build !failpoint

// Package failpoint names the moments at which a crash hurts most, so that
// tests can have one there: a kill -9 by the process itself. In flow the names
// that the code passes by; out flows nothing. Built without the tag failpoint,
// as every release is, Hit does nothing and costs nothing.
package failpoint

// Hit passes a named moment.
func Hit(string) {}
