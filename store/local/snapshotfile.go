package local

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"
)

// A snapshot file, which is a backup too, is the magic and then frames:
//
//	kind byte | length (4 bytes) | CRC-32C of kind, length and payload (4 bytes) | payload
//
// First a header, then frames of records (a count and the records, as in the log), in a backup the encryption keys, and
// last an end frame with the number of all records: a file without it was cut short.
const (
	snapshotMagic   = "KEBSTORE"
	snapshotVersion = 1

	frameHeader  = 'h'
	frameRecords = 'r'
	frameKeys    = 'k'
	frameEnd     = 'e'

	frameHead = 9
	// frameTarget is how large a frame of records grows: enough of them that all cores decode at once.
	frameTarget = 64 << 10
	// frameMax bounds what a reader takes into memory at once; see maxRecord.
	frameMax = 64 << 20
)

// snapshotHeader says what state a snapshot holds. Each resource's is the state at a revision of its own, the oldest from
// which its history is known: the log's tail, from logIndex on, then leads from there to the newest state, and in passing
// yields the history that lets watches resume.
type snapshotHeader struct {
	// revision is the state's revision for all resources that floors does not name.
	revision int64
	// logIndex is the newest log entry that the snapshot covers whole; 0 for none, as in a backup.
	logIndex uint64
	at       time.Time
	floors   map[string]int64
}

func (h *snapshotHeader) floor(resource string) int64 { return max(h.revision, h.floors[resource]) }

func encodeHeader(h snapshotHeader) []byte {
	b := []byte{snapshotVersion}
	b = binary.AppendUvarint(b, uint64(h.revision))
	b = binary.AppendUvarint(b, h.logIndex)
	b = binary.AppendUvarint(b, uint64(h.at.UnixMilli()))
	b = binary.AppendUvarint(b, uint64(len(h.floors)))
	for resource, floor := range h.floors {
		b = appendText(b, resource)
		b = binary.AppendUvarint(b, uint64(floor))
	}
	return b
}

func decodeHeader(data []byte) (snapshotHeader, error) {
	p := parser{rest: data}
	if v := p.byte(); v != snapshotVersion {
		return snapshotHeader{}, fmt.Errorf("snapshot version %d is not known", v)
	}
	h := snapshotHeader{revision: p.revision(), logIndex: p.number(), at: time.UnixMilli(p.revision()), floors: map[string]int64{}}
	for n := p.number(); n > 0 && p.err == nil; n-- {
		resource := string(p.bytes())
		h.floors[resource] = p.revision()
	}
	if p.err == nil && len(p.rest) > 0 {
		p.err = errMalformed
	}
	return h, p.err
}

// snapshotWriter writes the frames; end must come last.
type snapshotWriter struct {
	out     *bufio.Writer
	buf     []byte // records of the frame that is being filled
	count   int
	records uint64
	// bytes counts all that was written.
	bytes int64
}

func newSnapshotWriter(w io.Writer, h snapshotHeader) (*snapshotWriter, error) {
	s := &snapshotWriter{out: bufio.NewWriterSize(w, frameTarget)}
	if _, err := s.out.WriteString(snapshotMagic); err != nil {
		return nil, err
	}
	return s, s.frame(frameHeader, encodeHeader(h))
}

func (s *snapshotWriter) frame(kind byte, payload ...[]byte) error {
	var head [frameHead]byte
	head[0] = kind
	n := 0
	for _, p := range payload {
		n += len(p)
	}
	binary.LittleEndian.PutUint32(head[1:], uint32(n))
	sum := crc32.Checksum(head[:5], castagnoli())
	for _, p := range payload {
		sum = crc32.Update(sum, castagnoli(), p)
	}
	binary.LittleEndian.PutUint32(head[5:], sum)
	s.bytes += int64(frameHead + n)
	if _, err := s.out.Write(head[:]); err != nil {
		return err
	}
	for _, p := range payload {
		if _, err := s.out.Write(p); err != nil {
			return err
		}
	}
	return nil
}

func (s *snapshotWriter) record(r *record) error {
	s.buf = appendRecord(s.buf, r)
	s.count++
	s.records++
	if len(s.buf) < frameTarget {
		return nil
	}
	return s.flush()
}

func (s *snapshotWriter) flush() error {
	if s.count == 0 {
		return nil
	}
	err := s.frame(frameRecords, binary.AppendUvarint(nil, uint64(s.count)), s.buf)
	s.buf, s.count = s.buf[:0], 0
	return err
}

func (s *snapshotWriter) end() error {
	if err := s.flush(); err != nil {
		return err
	}
	if err := s.frame(frameEnd, binary.AppendUvarint(nil, s.records)); err != nil {
		return err
	}
	return s.out.Flush()
}

// readSnapshot checks a snapshot frame by frame and hands on what it holds, header first, end last. The payload is the callee's.
func readSnapshot(r io.Reader, visit func(kind byte, payload []byte) error) error {
	in := bufio.NewReaderSize(r, frameTarget)
	var magic [len(snapshotMagic)]byte
	if _, err := io.ReadFull(in, magic[:]); err != nil || string(magic[:]) != snapshotMagic {
		return errors.New("not a snapshot")
	}
	for first := true; ; first = false {
		kind, payload, err := readFrame(in)
		if err != nil {
			return err
		}
		if first != (kind == frameHeader) {
			return errMalformed
		}
		if err := visit(kind, payload); err != nil {
			return err
		}
		if kind != frameEnd {
			continue
		}
		if _, err := in.ReadByte(); err != io.EOF {
			return errMalformed
		}
		return nil
	}
}

func readFrame(in *bufio.Reader) (kind byte, payload []byte, err error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return 0, nil, cutShort(err)
	}
	n := binary.LittleEndian.Uint32(head[1:])
	if n > frameMax {
		return 0, nil, errMalformed
	}
	if payload, err = readExactly(in, int(n)); err != nil {
		return 0, nil, cutShort(err)
	}
	sum := crc32.Update(crc32.Checksum(head[:5], castagnoli()), castagnoli(), payload)
	if sum != binary.LittleEndian.Uint32(head[5:]) {
		return 0, nil, errChecksum
	}
	return head[0], payload, nil
}

// readExactly reads n bytes, and takes memory only as they come: a length in a damaged file promises nothing.
func readExactly(in io.Reader, n int) ([]byte, error) {
	var out []byte
	for len(out) < n {
		start := len(out)
		step := min(n-start, max(frameTarget, start))
		out = append(out, make([]byte, step)...)
		if _, err := io.ReadFull(in, out[start:]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func cutShort(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errCutShort
	}
	return err
}
