package grammar

// MainFor is Main with something else in the grammar's place.
var MainFor = mainFor

// Beside has the pool start its children in the gateway's own namespaces, and
// end the one that it has.
func (p *Pool) Beside() {
	p.ways = p.ways[len(p.ways)-1:]
	(<-p.slots).kill()
	p.slots <- nil
}

// PID returns the process id of the pool's idle child.
func (p *Pool) PID() int {
	c := <-p.slots
	defer func() { p.slots <- c }()
	return c.cmd.Process.Pid
}
