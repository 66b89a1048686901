// Package failpoint names the moments at which a crash hurts most, so that
// tests can have one there: a kill -9 by the process itself. In flow the names
// that the code passes by; out flows nothing.
//
// Built with the tag failpoint, the process dies at the moment that its
// environment names: EXHIBIT_FAILPOINT=name@n is the n-th time that it passes
// name, name alone the first. Without the tag, as every release is built,
// passing by does nothing and costs nothing.
package failpoint

// Hit passes a named moment, which may be the last.
func Hit(name string) { hit(name) }
