package local

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/kebernetes/kebernetes/store"
)

// keyFile is the form of the keys on disk and in a backup: JSON, newest key last.
type keyFile struct {
	Keys []keyEntry `json:"keys"`
}

type keyEntry struct {
	// ID is random, so that a record of a lost key is recognised as such instead of as damage.
	ID  uint32 `json:"id"`
	Key []byte `json:"key"` // 32 bytes: AES-256
}

// keyring encrypts what must not lie on disk in the clear. New records use the newest key; each record names its key.
type keyring struct {
	path string
	keys atomic.Pointer[keySet]
	// mu serialises all that changes keys or lastUse.
	mu sync.Mutex
	// lastUse is the newest log entry that needs each key.
	lastUse map[uint32]uint64
}

type keySet struct {
	file    keyFile
	primary uint32
	ciphers map[uint32]cipher.AEAD
}

func keysPath(dir string) string { return filepath.Join(dir, "keys.json") }

// export returns the key file's content.
func (r *keyring) export() ([]byte, error) { return json.Marshal(r.keys.Load().file) }

// openKeyring reads the key file. Without one the ring is empty, until ensure makes a first key.
func openKeyring(path string) (*keyring, error) {
	r := &keyring{path: path, lastUse: map[uint32]uint64{}}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		r.keys.Store(&keySet{})
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read encryption keys: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("encryption keys %s: not a regular file", path)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("encryption keys %s: mode %04o lets others read it; chmod 600 it", path, info.Mode().Perm())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read encryption keys: %w", err)
	}
	set, err := parseKeys(data)
	if err != nil {
		return nil, fmt.Errorf("encryption keys %s: %w", path, err)
	}
	r.keys.Store(set)
	return r, nil
}

// ensure makes a first key where there is none. It is for when everything that was encrypted before has been read: a new file
// in the place of one that was lost would hide what is missing.
func (r *keyring) ensure() error {
	if r.keys.Load().primary != 0 {
		return nil
	}
	return r.rotate()
}

func parseKeys(data []byte) (*keySet, error) {
	var file keyFile
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, err
	}
	return newKeySet(file)
}

func newKeySet(file keyFile) (*keySet, error) {
	if len(file.Keys) == 0 {
		return nil, errors.New("no key in it")
	}
	set := &keySet{file: file, ciphers: map[uint32]cipher.AEAD{}}
	for _, k := range file.Keys {
		if k.ID == 0 || len(k.Key) != 32 {
			return nil, fmt.Errorf("key %08x is not a 256-bit key", k.ID)
		}
		block, err := aes.NewCipher(k.Key)
		if err != nil {
			return nil, err
		}
		if set.ciphers[k.ID], err = cipher.NewGCM(block); err != nil {
			return nil, err
		}
		set.primary = k.ID
	}
	return set, nil
}

// rotate makes a new key the one to encrypt with.
func (r *keyring) rotate() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	entry := keyEntry{Key: make([]byte, 32)}
	rand.Read(entry.Key)
	file := keyFile{Keys: slices.Clone(r.keys.Load().file.Keys)}
	for entry.ID == 0 || slices.ContainsFunc(file.Keys, func(k keyEntry) bool { return k.ID == entry.ID }) {
		var id [4]byte
		rand.Read(id[:])
		entry.ID = binary.LittleEndian.Uint32(id[:])
	}
	file.Keys = append(file.Keys, entry)
	return r.write(file)
}

// forget drops the keys, but the newest, that neither a log entry after index needs nor used says are needed otherwise.
func (r *keyring) forget(index uint64, used map[uint32]bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.keys.Load()
	file := keyFile{Keys: slices.DeleteFunc(slices.Clone(old.file.Keys), func(k keyEntry) bool {
		return k.ID != old.primary && !used[k.ID] && r.lastUse[k.ID] <= index
	})}
	if len(file.Keys) == len(old.file.Keys) {
		return nil
	}
	return r.write(file)
}

// use notes that a log entry will need a key. It is false when the key is gone: the record must be encrypted again.
func (r *keyring) use(id uint32, index uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.keys.Load().ciphers[id] == nil {
		return false
	}
	r.lastUse[id] = max(r.lastUse[id], index)
	return true
}

// write puts the keys on disk before anything is encrypted with them.
func (r *keyring) write(file keyFile) error {
	set, err := newKeySet(file)
	if err != nil {
		return err
	}
	data, err := json.Marshal(file)
	if err != nil {
		return err
	}
	if err := replaceFile(r.path, func(f *os.File) error { _, err := f.Write(data); return err }); err != nil {
		return fmt.Errorf("write encryption keys: %w", err)
	}
	r.keys.Store(set)
	return nil
}

// seal encrypts an object's bytes. They are bound to the object's name: one record cannot be passed off as another.
func (r *keyring) seal(key store.Key, plain []byte) (id uint32, sealed []byte) {
	set := r.keys.Load()
	aead := set.ciphers[set.primary]
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(plain)+aead.Overhead())
	rand.Read(nonce)
	return set.primary, aead.Seal(nonce, nonce, plain, bound(key))
}

func (r *keyring) open(id uint32, key store.Key, sealed []byte) ([]byte, error) {
	aead := r.keys.Load().ciphers[id]
	if aead == nil {
		return nil, fmt.Errorf("encrypted with key %08x, which is not in %s", id, r.path)
	}
	if len(sealed) < aead.NonceSize() {
		return nil, errors.New("encrypted data cut short")
	}
	n := aead.NonceSize()
	return aead.Open(nil, sealed[:n], sealed[n:], bound(key))
}

func bound(key store.Key) []byte {
	return []byte(key.Resource + "\x00" + key.Namespace + "\x00" + key.Name)
}
