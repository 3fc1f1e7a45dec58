package main

import (
	"bytes"
	"compress/gzip"
	"encoding/gob"
	"io"
	"os"
	"reflect"
	"testing"

	"sigs.k8s.io/structured-merge-diff/v6/schema"
)

// TestSchemaIsCurrent fails when the client module moved on and the schema was not made anew (go generate ./apiserver/fields).
func TestSchemaIsCurrent(t *testing.T) {
	want, err := reduced()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := write(&b, want); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile("../mergeschema.gob.gz")
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(decode(t, &b).Types, decode(t, bytes.NewReader(file)).Types) {
		t.Error("the schema is not that of the client module: go generate ./apiserver/fields")
	}
}

func decode(t *testing.T, r io.Reader) *schema.Schema {
	t.Helper()
	z, err := gzip.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	s := &schema.Schema{}
	if err := gob.NewDecoder(z).Decode(s); err != nil {
		t.Fatal(err)
	}
	return s
}
