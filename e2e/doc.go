// Package e2e holds tests of the whole: the programs as users run them, real
// servers and ordinary clients in, and what an operator, an agent or an auditor
// would see out. It has no code of its own.
package e2e
