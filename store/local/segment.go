package local

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// This file reads the log's segment files before the log library opens them. The library takes every invalid frame for the
// torn end of the last append and writes over what follows, so that damage in the middle of the newest segment would
// silently lose acknowledged writes; it never checks sealed segments; and it reads 64 KiB for each entry. Here every byte is
// checked once, and all entries come out of one pass over each file.
//
// A segment is a file header of 32 bytes and then frames, each with a head of 8 bytes (type, 3 zeros, length or checksum) and
// padded to 8: entries, at the end of a full segment an index, and after each append a commit with the CRC-32C of all bytes
// since the last one.
const (
	segmentHeader = 32
	segmentAlign  = 8
	// segmentSize is preallocated; a larger one would only be rotated less often.
	segmentSize = 8 << 20
)

// decodeEntry parses an entry as the library's binary codec wrote it: index, term and type as varints, then our batch with its
// length before it. (A codec of our own would be simpler, but the library cannot open again what one wrote.)
func decodeEntry(data []byte) (batch, error) {
	p := parser{rest: data}
	p.number()
	p.number()
	p.number()
	body := p.bytes()
	if p.err != nil {
		return batch{}, p.err
	}
	return decodeBatch(body)
}

// scan is what a segment's bytes hold.
type scan struct {
	// entries of whole appends, in order.
	entries [][]byte
	// end is where the next append goes.
	end int
	// index is the place of the index frame, and start of the append that wrote it; 0 in a segment that is not full.
	index, start int
}

// scanSegment reads appends as long as they are whole.
func scanSegment(data []byte) scan {
	var s scan
	if len(data) < segmentHeader {
		return s
	}
	start, at := 0, segmentHeader
	var entries [][]byte
	index := 0
	for at+segmentAlign <= len(data) && s.index == 0 {
		head := data[at : at+segmentAlign]
		value := binary.LittleEndian.Uint32(head[4:])
		if head[1]|head[2]|head[3] != 0 {
			break
		}
		payload := data[at+segmentAlign:]
		switch head[0] {
		case segment.FrameEntry, segment.FrameIndex:
			if uint64(value) > uint64(len(payload)) {
				return s
			}
			if head[0] == segment.FrameIndex {
				index = at
			} else {
				entries = append(entries, payload[:value:value])
			}
			at += segmentAlign + (int(value)+segmentAlign-1)&^(segmentAlign-1)
		case segment.FrameCommit:
			if crc32.Checksum(data[start:at], castagnoli()) != value {
				return s
			}
			s.entries = append(s.entries, entries...)
			entries = entries[:0]
			at += segmentAlign
			s.index, s.start, s.end = index, start, at
			start = at
		default:
			return s
		}
	}
	return s
}

// damage is the error for a file that is not as it was written.
type damage struct {
	path string
	err  error
}

func (d *damage) Error() string {
	return fmt.Sprintf("%s is damaged (%v); it was left as it is: restore a backup, or the file", d.path, d.err)
}

func (d *damage) Unwrap() error { return d.err }

// readLog returns the batches of the log in dir from an index on, and the index of the newest entry, 0 for an empty log. A torn
// tail is cut off, with a warning; any other damage is an error, and no file is changed.
func readLog(dir string, meta *metadb.BoltMetaDB, from uint64, log *slog.Logger) (batches []batch, last uint64, err error) {
	state, err := meta.Load(dir)
	if err != nil {
		return nil, 0, &damage{filepath.Join(dir, metadb.FileName), err}
	}
	next := max(from, 1)
	if len(state.Segments) > 0 {
		next = state.Segments[0].MinIndex
	}
	if next > max(from, 1) {
		return nil, 0, fmt.Errorf("log %s begins at entry %d, but the snapshot ends at %d: one of them is missing or of another time", dir, next, from)
	}
	for i, info := range state.Segments {
		sealed := !info.SealTime.IsZero()
		if sealed && info.MaxIndex < from {
			next = info.MaxIndex + 1
			continue
		}
		path := filepath.Join(dir, segment.FileName(info))
		found, err := readSegment(path, info, i == len(state.Segments)-1, log)
		if err != nil {
			return nil, 0, err
		}
		for _, b := range found {
			if b.index < max(info.MinIndex, next) {
				continue
			}
			if b.index != next {
				return nil, 0, &damage{path, fmt.Errorf("entry %d stands where %d should", b.index, next)}
			}
			last, next = b.index, next+1
			if b.index >= from {
				batches = append(batches, b)
			}
		}
		if sealed && next != info.MaxIndex+1 {
			return nil, 0, &damage{path, fmt.Errorf("entry %d is missing", next)}
		}
	}
	return batches, last, nil
}

// readSegment returns the entries of one file. tail says that it is the one that is being appended to.
func readSegment(path string, info types.SegmentInfo, tail bool, log *slog.Logger) ([]batch, error) {
	data, err := readData(path)
	if errors.Is(err, os.ErrNotExist) && tail {
		return nil, nil // a crash came between naming the new segment and making it
	}
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	s := scanSegment(data)
	if !tail && (info.SealTime.IsZero() || s.index == 0 || uint64(s.index+segmentAlign) != info.IndexStart) {
		return nil, &damage{path, fmt.Errorf("invalid at offset %d", s.end)}
	}
	batches := make([]batch, 0, len(s.entries))
	for _, e := range s.entries {
		b, err := decodeEntry(e)
		if err != nil {
			return nil, &damage{path, fmt.Errorf("entry %d: %w", info.BaseIndex+uint64(len(batches)), err)}
		}
		batches = append(batches, b)
	}
	if !tail {
		return batches, nil
	}
	next := info.BaseIndex + uint64(len(batches))
	if at, ok := laterGroup(data[s.end:], next); ok {
		return nil, &damage{path, fmt.Errorf("invalid at offset %d, but appended to later, at %d", s.end, s.end+at)}
	}
	if s.index > 0 {
		return batches, unseal(path, data, s)
	}
	return batches, cutTail(path, data, s.end, log)
}

// laterGroup looks for a whole entry of an append after the one that begins with entry next.
func laterGroup(rest []byte, next uint64) (offset int, found bool) {
	for at := 0; at+segmentAlign <= len(rest); at += segmentAlign {
		head := rest[at : at+segmentAlign]
		if head[0] != segment.FrameEntry || head[1]|head[2]|head[3] != 0 {
			continue
		}
		n := binary.LittleEndian.Uint32(head[4:])
		payload := rest[at+segmentAlign:]
		if uint64(n) > uint64(len(payload)) {
			continue
		}
		if b, err := decodeEntry(payload[:n]); err == nil && b.group > next {
			return at, true
		}
	}
	return 0, false
}

// cutTail overwrites what an append that never ended left behind.
func cutTail(path string, data []byte, end int, log *slog.Logger) error {
	torn := len(bytes.TrimRight(data[end:], "\x00"))
	if torn == 0 {
		return nil
	}
	log.Warn("log ends in a write that was never finished, nor acknowledged; cut off", "file", path, "offset", end, "bytes", torn)
	return overwrite(path, end, make([]byte, torn))
}

// unseal takes the index off a segment that was filled by the last append before a crash. The library would seal it a moment
// later, and refuses to go on from the state between the two; without the index, the next append fills it anew.
func unseal(path string, data []byte, s scan) error {
	var commit [segmentAlign]byte
	commit[0] = segment.FrameCommit
	binary.LittleEndian.PutUint32(commit[4:], crc32.Checksum(data[s.start:s.index], castagnoli()))
	if err := overwrite(path, s.index, commit[:]); err != nil {
		return err
	}
	return overwrite(path, s.index+segmentAlign, make([]byte, s.end-s.index-segmentAlign))
}

func overwrite(path string, at int, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("mend log: %w", err)
	}
	_, err = f.WriteAt(b, int64(at))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("mend log: %w", err)
	}
	return nil
}
