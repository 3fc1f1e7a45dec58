package local

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"slices"
	"time"

	"github.com/kebernetes/kebernetes/store"
)

// A batch is one entry of the log:
//
//	version byte | index | group | unix milliseconds | reserved | count | records | CRC-32C of all before (4 bytes, little-endian)
//
// and a record is
//
//	type byte | revision | created | key id | resource | namespace | name | payload
//
// Numbers are varints, texts are preceded by their length. Entries that were appended by one call, and so became durable
// together, have the same group: the index of the first of them. That is what tells a torn tail from damage in the middle:
// behind a torn group there cannot be another one.
//
// Invariant of reserved: no revision above the reserved of the newest entry has ever been published. Volatile records are
// published before they are written, but never beyond it; so a start after a crash goes on from reserved, and no revision
// is ever given twice, although the records themselves may be lost.
type batch struct {
	index, group uint64
	at           time.Time
	reserved     int64
	records      []record
}

// record is one change as it lies on disk. The payload is the object encoded, without its resourceVersion (which is the
// revision), and encrypted if keyID is not 0; for a delete it is empty.
type record struct {
	typ               store.EventType
	revision, created int64
	keyID             uint32
	key               store.Key
	payload           []byte
}

const (
	batchVersion = 1
	// minRecord is the size of the smallest record: it bounds what a count can promise.
	minRecord = 8
)

var (
	errCutShort  = errors.New("cut short")
	errChecksum  = errors.New("checksum does not match")
	errMalformed = errors.New("malformed")
)

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

func appendRecord(b []byte, r *record) []byte {
	b = append(b, byte(r.typ))
	b = binary.AppendUvarint(b, uint64(r.revision))
	b = binary.AppendUvarint(b, uint64(r.created))
	b = binary.AppendUvarint(b, uint64(r.keyID))
	b = appendText(b, r.key.Resource)
	b = appendText(b, r.key.Namespace)
	b = appendText(b, r.key.Name)
	return appendText(b, r.payload)
}

func appendText[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// encodeBatch makes a log entry of records that are encoded already, in the memory of b if it is large enough.
func encodeBatch(b []byte, h batch, count int, records []byte) []byte {
	b = append(slices.Grow(b[:0], len(records)+64), batchVersion)
	b = binary.AppendUvarint(b, h.index)
	b = binary.AppendUvarint(b, h.group)
	b = binary.AppendUvarint(b, uint64(h.at.UnixMilli()))
	b = binary.AppendUvarint(b, uint64(h.reserved))
	b = binary.AppendUvarint(b, uint64(count))
	b = append(b, records...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli()))
}

// decodeBatch checks and parses a log entry. The records' payloads are parts of data.
func decodeBatch(data []byte) (batch, error) {
	if len(data) < 4 {
		return batch{}, errCutShort
	}
	body := data[:len(data)-4]
	if crc32.Checksum(body, castagnoli()) != binary.LittleEndian.Uint32(data[len(body):]) {
		return batch{}, errChecksum
	}
	p := parser{rest: body}
	if p.byte() != batchVersion {
		return batch{}, errMalformed
	}
	b := batch{index: p.number(), group: p.number(), at: time.UnixMilli(int64(p.revision())), reserved: p.revision()}
	var err error
	b.records, err = p.records()
	return b, err
}

// parser takes fields off the front of a slice; after the first error all fields are zero.
type parser struct {
	rest []byte
	err  error
}

func (p *parser) byte() byte {
	if len(p.rest) == 0 {
		p.err = errCutShort
		return 0
	}
	c := p.rest[0]
	p.rest = p.rest[1:]
	return c
}

func (p *parser) number() uint64 {
	v, n := binary.Uvarint(p.rest)
	if n <= 0 {
		p.err, p.rest = errCutShort, nil
		return 0
	}
	p.rest = p.rest[n:]
	return v
}

func (p *parser) revision() int64 {
	v := p.number()
	if v > math.MaxInt64 {
		p.err = errMalformed
		return 0
	}
	return int64(v)
}

func (p *parser) bytes() []byte {
	n := p.number()
	if n > uint64(len(p.rest)) {
		p.err, p.rest = errCutShort, nil
		return nil
	}
	b := p.rest[:n:n]
	p.rest = p.rest[n:]
	return b
}

func (p *parser) record() record {
	r := record{typ: store.EventType(p.byte()), revision: p.revision(), created: p.revision()}
	id := p.number()
	if r.typ > store.Delete || id > math.MaxUint32 {
		p.err = errMalformed
	}
	r.keyID = uint32(id)
	r.key = store.Key{Resource: string(p.bytes()), Namespace: string(p.bytes()), Name: string(p.bytes())}
	r.payload = p.bytes()
	return r
}

// records parses a count and that many records, which must be all there is.
func (p *parser) records() ([]record, error) {
	n := p.number()
	if n > uint64(len(p.rest)/minRecord) {
		return nil, errCutShort
	}
	out := make([]record, 0, n)
	for range n {
		out = append(out, p.record())
		if p.err != nil {
			return nil, p.err
		}
	}
	if p.err == nil && len(p.rest) > 0 {
		p.err = errMalformed
	}
	return out, p.err
}
