package wire

import "sync"

// Buffer is a byte slice that is used again.
type Buffer struct{ B []byte }

// keepBuffer is the largest buffer that is kept for use again.
const keepBuffer = 256 << 10

// buffers is memory for use again; it holds no state.
var buffers = sync.Pool{New: func() any { return &Buffer{B: make([]byte, 0, 4096)} }}

// GetBuffer returns an empty buffer.
func GetBuffer() *Buffer {
	b := buffers.Get().(*Buffer)
	b.B = b.B[:0]
	return b
}

// Free gives the buffer back. Nothing may refer to its bytes any more.
func (b *Buffer) Free() {
	if cap(b.B) <= keepBuffer {
		buffers.Put(b)
	}
}

// Out is where a long answer goes. Spill is called between its pieces and may send what has been gathered; nil gathers all.
type Out struct {
	*Buffer
	Spill func()
}

func (o *Out) spill() {
	if o.Spill != nil {
		o.Spill()
	}
}
