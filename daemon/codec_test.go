package daemon

import (
	"bytes"
	"testing"

	"github.com/kebernetes/kebernetes/kinds/builtin"
)

// A record of any kind is refused, or read and written to what reads the same.
func FuzzCodec(f *testing.F) {
	table := builtin.Table()
	c := codec{table}
	var resources []string
	for _, k := range table.All() {
		if k.Virtual || k.StoredAs != nil {
			continue
		}
		resources = append(resources, k.GroupResource().String())
		obj := k.Storage().New()
		obj.SetName("a")
		obj.SetLabels(map[string]string{"a": "b"})
		data, err := c.Encode("x", obj)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint16(len(resources)-1), data)
	}
	f.Add(uint16(0), []byte(`j{"apiVersion":"v1","kind":"x"}`))
	resources = append(resources, "unknown.example.org")
	f.Fuzz(func(t *testing.T, index uint16, data []byte) {
		resource := resources[int(index)%len(resources)]
		obj, err := c.Decode(resource, data)
		if err != nil {
			return
		}
		once, err := c.Encode(resource, obj)
		if err != nil {
			return // a number that JSON has none for
		}
		again, err := c.Decode(resource, once)
		if err != nil {
			t.Fatalf("%s: what was written cannot be read: %v", resource, err)
		}
		twice, err := c.Encode(resource, again)
		if err != nil || !bytes.Equal(once, twice) {
			t.Errorf("%s: %q was read and written as %q (%v)", resource, once, twice, err)
		}
	})
}
