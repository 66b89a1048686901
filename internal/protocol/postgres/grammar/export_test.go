package grammar

// MainFor is Main with something else in the grammar's place.
var MainFor = mainFor

// Beside has the pool start its children in the gateway's own namespaces, and
// end the one that it has.
func (p *Pool) Beside() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ways = p.ways[len(p.ways)-1:]
	p.idle[0].kill()
	p.idle = nil
}

// PID returns the process id of the pool's idle child.
func (p *Pool) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.idle[0].cmd.Process.Pid
}

// The pipe, for its fuzz test.
var (
	ReadFrame = readFrame
	Encode    = encode
	Decode    = decode
)
