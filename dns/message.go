package dns

import (
	"encoding/binary"
	"errors"
	"net/netip"

	miekg "github.com/miekg/dns"
)

// The messages of the fast path are read and written by hand, without allocation: a name server for pods answers little else than
// A and AAAA. What takes longer anyway, and is rarer, uses miekg/dns.

const (
	headerLen = 12
	optLen    = 11
	// maxUDP is the largest answer over UDP, whatever a client offers: it passes any link unfragmented.
	maxUDP = 1232
	maxTCP = 65535
	// questionName points to the name of the question, which follows the header.
	questionName = "\xc0\x0c"
)

var (
	errNotQuery  = errors.New("not a query")
	errMalformed = errors.New("malformed query")
)

// query is a parsed query. It refers to the packet it came in.
type query struct {
	id, flags uint16
	// name is the question's name on the wire, in lower case; labels are where its labels start, without the root.
	name     [255]byte
	nameLen  int
	labels   [127]uint8
	labelNum int
	qtype    uint16
	qclass   uint16
	question []byte // of the packet: name, type and class

	edns    bool
	do      bool
	udpSize int
	version uint8
}

// parse reads a packet. With errNotQuery there is nobody to answer; with errMalformed only id and flags are set.
func (q *query) parse(p []byte) error {
	if len(p) < headerLen || p[2]&0x80 != 0 {
		return errNotQuery
	}
	q.id, q.flags = binary.BigEndian.Uint16(p), binary.BigEndian.Uint16(p[2:])
	q.labelNum, q.nameLen, q.question = 0, 0, nil
	q.edns, q.do, q.version, q.udpSize = false, false, 0, miekg.MinMsgSize
	if binary.BigEndian.Uint16(p[4:]) != 1 || binary.BigEndian.Uint32(p[6:]) != 0 {
		return errMalformed
	}
	at := headerLen
	for {
		if at >= len(p) {
			return errMalformed
		}
		n := int(p[at])
		if n > 63 || q.nameLen+n+1 > len(q.name) || at+1+n > len(p) {
			return errMalformed
		}
		q.name[q.nameLen] = byte(n)
		for i, c := range p[at+1 : at+1+n] {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			q.name[q.nameLen+1+i] = c
		}
		if n == 0 {
			q.nameLen++
			at++
			break
		}
		q.labels[q.labelNum] = uint8(q.nameLen)
		q.labelNum++
		q.nameLen += n + 1
		at += n + 1
	}
	if at+4 > len(p) {
		return errMalformed
	}
	q.qtype, q.qclass = binary.BigEndian.Uint16(p[at:]), binary.BigEndian.Uint16(p[at+2:])
	at += 4
	q.question = p[headerLen:at]
	return q.parseAdditional(p, at)
}

// parseAdditional looks for the OPT record (RFC 6891) behind the question.
func (q *query) parseAdditional(p []byte, at int) error {
	for range binary.BigEndian.Uint16(p[10:]) {
		root := at < len(p) && p[at] == 0
		for at < len(p) && p[at] != 0 && p[at] < 0xc0 {
			at += 1 + int(p[at])
		}
		if at < len(p) && p[at] >= 0xc0 {
			at++
		}
		at++
		if at+10 > len(p) {
			return errMalformed
		}
		end := at + 10 + int(binary.BigEndian.Uint16(p[at+8:]))
		if end > len(p) {
			return errMalformed
		}
		if binary.BigEndian.Uint16(p[at:]) == miekg.TypeOPT {
			if q.edns || !root {
				return errMalformed
			}
			q.edns = true
			q.udpSize = max(miekg.MinMsgSize, int(binary.BigEndian.Uint16(p[at+2:])))
			q.version = p[at+5]
			q.do = p[at+6]&0x80 != 0
		}
		at = end
	}
	return nil
}

func (q *query) opcode() int { return int(q.flags>>11) & 0xf }

// label returns a label, counted from the left.
func (q *query) label(i int) []byte {
	at := int(q.labels[i])
	return q.name[at+1 : at+1+int(q.name[at])]
}

// wire is the question's name in lower case.
func (q *query) wire() []byte { return q.name[:q.nameLen] }

// section counts the records of a response.
type section int

const (
	answer section = iota
	authority
	additional
)

// response is a message that grows. It never grows over its limit: answers that do not fit set the truncation bit.
type response struct {
	buf       []byte
	start     int // of the message in buf
	limit     int
	counts    [3]uint16
	truncated bool
	edns, do  bool
	aliases   int // followed so far
}

// begin starts the response to q in buf, which may hold something already.
func (r *response) begin(buf []byte, q *query, limit int) {
	*r = response{buf: buf, start: len(buf), limit: len(buf) + limit, edns: q.edns, do: q.do}
	r.buf = binary.BigEndian.AppendUint16(r.buf, q.id)
	r.buf = append(r.buf, make([]byte, headerLen-2)...)
	r.buf = append(r.buf, q.question...)
	if q.edns {
		r.limit -= optLen
	}
}

// finish sets the header and appends the OPT record. flags are bits of the header's second word, rcode may be extended.
func (r *response) finish(q *query, flags uint16, rcode int) []byte {
	h := r.buf[r.start:]
	flags |= 1<<15 | q.flags&(0xf<<11|1<<8|1<<4) | uint16(rcode&0xf) // QR, opcode, RD and CD
	if r.truncated {
		flags |= 1 << 9
	}
	binary.BigEndian.PutUint16(h[2:], flags)
	if len(q.question) > 0 {
		binary.BigEndian.PutUint16(h[4:], 1)
	}
	for i, n := range r.counts {
		binary.BigEndian.PutUint16(h[6+2*i:], n)
	}
	if r.edns {
		binary.BigEndian.PutUint16(h[10:], r.counts[additional]+1)
		var do byte
		if r.do {
			do = 0x80
		}
		r.buf = append(r.buf, 0, 0, byte(miekg.TypeOPT), maxUDP>>8, maxUDP&0xff, byte(rcode>>4), 0, do, 0, 0, 0)
	}
	return r.buf
}

// Header bits.
const (
	flagAuthoritative = 1 << 10
	flagRecursion     = 1 << 7
	flagAuthentic     = 1 << 5

	flagCheckingDisabled = 1 << 4
)

// record appends a record with two parts of data, and says whether it fitted.
func (r *response) record(to section, owner string, rrtype uint16, ttl uint32, data, more []byte) bool {
	if r.truncated && to == answer {
		return false
	}
	if len(r.buf)+len(owner)+10+len(data)+len(more) > r.limit {
		r.truncated = r.truncated || to == answer
		return false
	}
	r.buf = append(r.buf, owner...)
	r.buf = binary.BigEndian.AppendUint16(r.buf, rrtype)
	r.buf = binary.BigEndian.AppendUint16(r.buf, miekg.ClassINET)
	r.buf = binary.BigEndian.AppendUint32(r.buf, ttl)
	r.buf = binary.BigEndian.AppendUint16(r.buf, uint16(len(data)+len(more)))
	r.buf = append(append(r.buf, data...), more...)
	r.counts[to]++
	return true
}

// address appends an A or AAAA record.
func (r *response) address(to section, owner string, ttl uint32, addr netip.Addr) bool {
	if addr.Is4() {
		b := addr.As4()
		return r.record(to, owner, miekg.TypeA, ttl, b[:], nil)
	}
	b := addr.As16()
	return r.record(to, owner, miekg.TypeAAAA, ttl, b[:], nil)
}

// rr appends a record that miekg/dns made.
func (r *response) rr(to section, rr miekg.RR) bool {
	if r.truncated {
		return false
	}
	buf := make([]byte, miekg.Len(rr)+1)
	n, err := miekg.PackRR(rr, buf, 0, nil, false)
	if err != nil || len(r.buf)+n > r.limit {
		r.truncated = true
		return false
	}
	r.buf = append(r.buf, buf[:n]...)
	r.counts[to]++
	return true
}

// appendName appends labels, and then a name that is on the wire already. It returns nil when the name is too long for DNS.
func appendName(b []byte, wire string, labels ...string) []byte {
	start := len(b)
	for _, l := range labels {
		if len(l) == 0 || len(l) > 63 {
			return nil
		}
		b = append(append(b, byte(len(l))), l...)
	}
	b = append(b, wire...)
	if len(b)-start > 255 {
		return nil
	}
	return b
}

// wireName puts a dotted name on the wire, in lower case; false when it is none.
func wireName(name string) (string, bool) {
	buf := make([]byte, 256)
	n, err := miekg.PackDomainName(miekg.CanonicalName(name), buf, 0, nil, false)
	if err != nil {
		return "", false
	}
	return string(buf[:n]), true
}
