package postgres

import "sync"

// A session reads into small buffers while it is idle or chatty, and into
// large ones, borrowed from a pool, while more than that flows.
const (
	smallBuffer = 4 << 10
	largeBuffer = 64 << 10
)

var largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}

// buffer is a window of bytes read and not yet consumed: b[r:w].
type buffer struct {
	b     []byte
	r, w  int
	small [smallBuffer]byte
	large *[largeBuffer]byte // when borrowed; b is it, or something larger still
}

func (b *buffer) init() { b.b = b.small[:] }

func (b *buffer) unread() []byte { return b.b[b.r:b.w] }

// full reports whether there is no room to read into.
func (b *buffer) full() bool { return b.w == len(b.b) }

// compact moves the unread bytes to the front.
func (b *buffer) compact() {
	if b.r > 0 {
		b.w = copy(b.b, b.b[b.r:b.w])
		b.r = 0
	}
}

// grow makes b a large buffer. It reports false when it is one already.
func (b *buffer) grow() bool {
	if b.large != nil {
		return false
	}
	b.large, _ = largeBuffers.Get().(*[largeBuffer]byte)
	b.w = copy(b.large[:], b.b[b.r:b.w])
	b.r, b.b = 0, b.large[:]
	return true
}

// hugeBuffer is how far a large buffer may be stretched.
const hugeBuffer = 1 << 20

// stretch makes a large buffer larger, for once: the next shrink undoes it.
func (b *buffer) stretch() bool {
	if len(b.b) >= hugeBuffer {
		return false
	}
	more := make([]byte, 2*len(b.b))
	b.w = copy(more, b.b[b.r:b.w])
	b.r, b.b = 0, more
	return true
}

// shrink gives the large buffer back when what is left fits the small one.
func (b *buffer) shrink() {
	if b.large == nil || b.w-b.r > smallBuffer/2 {
		return
	}
	b.w = copy(b.small[:], b.b[b.r:b.w])
	b.r, b.b = 0, b.small[:]
	largeBuffers.Put(b.large)
	b.large = nil
}

// release gives everything back; b is done.
func (b *buffer) release() {
	b.r, b.w = 0, 0
	b.shrink()
}
