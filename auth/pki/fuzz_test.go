package pki

import (
	"bytes"
	"crypto/x509"
	"testing"
	"time"
)

// FuzzFiles reads what may stand in the files of the directory.
func FuzzFiles(f *testing.F) {
	key, err := newKey()
	if err != nil {
		f.Fatal(err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		f.Fatal(err)
	}
	cert, err := selfSigned(key, "ca", time.Now())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(keyPEM)
	f.Add(encodeCerts([]*x509.Certificate{cert, cert}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if keys, err := parseKeys(data); err == nil && len(keys) == 0 {
			t.Error("no key, and no error")
		}
		certs, err := parseCerts(data)
		if err != nil {
			return
		}
		if len(certs) == 0 {
			t.Fatal("no certificate, and no error")
		}
		if again, err := parseCerts(encodeCerts(certs)); err != nil || !bytes.Equal(again[0].Raw, certs[0].Raw) {
			t.Errorf("%v after encoding again", err)
		}
	})
}
