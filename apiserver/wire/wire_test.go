package wire

import (
	"bytes"
	"encoding/json"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/kebernetes/kebernetes/kinds"
	"github.com/kebernetes/kebernetes/store"
)

func configMaps() *kinds.Kind {
	return &kinds.Kind{
		Kind: "ConfigMap", Resource: "configmaps", Namespaced: true,
		Versions: []kinds.Version{kinds.V[corev1.ConfigMap, corev1.ConfigMapList]("v1")},
	}
}

func item(name string, data map[string]string) *store.Item {
	return &store.Item{Object: &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", ResourceVersion: "7", UID: "u", Labels: map[string]string{"a": "b"}}, Data: data,
	}}
}

// TestProtobuf reads what this package writes with upstream's own serializer.
func TestProtobuf(t *testing.T) {
	k := configMaps()
	scheme := kinds.NewTable(k).Scheme()
	upstream := protobuf.NewSerializer(scheme, scheme)
	fm := NewForm(k, &k.Versions[0], Protobuf)
	items := []*store.Item{item("x", map[string]string{"k": "v"}), item("y", nil)}

	bare, err := fm.Bare(items[0])
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := upstream.Decode(fm.Object(nil, items[0].Object, bare), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := items[0].Object.DeepCopyObject().(*corev1.ConfigMap)
	want.TypeMeta = metav1.TypeMeta{}
	got.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	if d := cmp.Diff(want, got); d != "" {
		t.Error("object:", d)
	}

	l, err := NewProtobufList(fm, items, metav1.ListMeta{ResourceVersion: "9"})
	if err != nil {
		t.Fatal(err)
	}
	out := &Out{Buffer: &Buffer{}}
	l.Write(out)
	if l.Size() != len(out.B) {
		t.Errorf("told %d bytes, wrote %d", l.Size(), len(out.B))
	}
	list, _, err := upstream.Decode(out.B, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	cms := list.(*corev1.ConfigMapList)
	if len(cms.Items) != 2 || cms.ResourceVersion != "9" || cms.Items[1].Name != "y" {
		t.Errorf("list: %+v", cms)
	}
}

func TestFrames(t *testing.T) {
	k := configMaps()
	scheme := kinds.NewTable(k).Scheme()
	f, err := NewFrames(k, &k.Versions[0], Media{Format: Protobuf}, nil, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := f.Event(nil, Added, item("x", nil))
	if err != nil {
		t.Fatal(err)
	}
	stream = f.Bookmark(stream, 12, true)
	r := protobuf.LengthDelimitedFramer.NewFrameReader(io.NopCloser(bytes.NewReader(stream)))
	var types []string
	for range 2 {
		frame := make([]byte, 4096)
		n, err := r.Read(frame)
		if err != nil {
			t.Fatal(err)
		}
		var e metav1.WatchEvent
		if err := e.Unmarshal(frame[:n]); err != nil {
			t.Fatal(err)
		}
		obj, _, err := protobuf.NewSerializer(scheme, scheme).Decode(e.Object.Raw, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		cm := obj.(*corev1.ConfigMap)
		types = append(types, e.Type+" "+cm.Name+cm.ResourceVersion+cm.Annotations[metav1.InitialEventsAnnotationKey])
	}
	if d := cmp.Diff([]string{"ADDED x7", "BOOKMARK 12true"}, types); d != "" {
		t.Error(d)
	}

	j, err := NewFrames(k, &k.Versions[0], Media{}, nil, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := j.Event(nil, Deleted, item("x", map[string]string{"k": "<"}))
	if err != nil {
		t.Fatal(err)
	}
	var e struct {
		Type   watch.EventType
		Object corev1.ConfigMap
	}
	if err := json.Unmarshal(lines, &e); err != nil || e.Type != watch.Deleted || e.Object.Kind != "ConfigMap" || e.Object.Data["k"] != "<" {
		t.Errorf("%v: %+v from %s", err, e, lines)
	}
}

// TestEncodingsAreShared: the second reader of an item gets the first one's bytes.
func TestEncodingsAreShared(t *testing.T) {
	k := configMaps()
	fm := NewForm(k, &k.Versions[0], JSON)
	it := item("x", nil)
	a, _ := fm.Bare(it)
	b, _ := fm.Bare(it)
	if &a[0] != &b[0] {
		t.Error("encoded twice")
	}
	if p, _ := partialBare(it, JSON); bytes.Equal(p, a) == false && !json.Valid(p) {
		t.Error("partial encoding is not JSON")
	}
}

func TestAccept(t *testing.T) {
	for header, want := range map[string]string{
		"":                 "json",
		"application/json": "json",
		"application/yaml;q=0.9,application/vnd.kubernetes.protobuf": "protobuf",
		"application/json;q=0.5, application/yaml":                   "yaml",
		"text/html, */*": "json",
		"text/html":      "406",
		"application/json;as=Table;v=v1;g=meta.k8s.io,application/json":                       "json table",
		"application/json;as=Table;v=v9;g=meta.k8s.io":                                        "406",
		"application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io": "protobuf partial",
		";;;": "406",
	} {
		m, err := Accept(header, "list", true)
		got := []string{"json", "protobuf", "yaml"}[m.Format] + []string{"", " table", " partial"}[m.Shape]
		if err != nil {
			got = "406"
		}
		if got != want {
			t.Errorf("%q: %s, want %s", header, got, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	k := configMaps()
	gvk := corev1.SchemeGroupVersion.WithKind("ConfigMap")
	scheme := kinds.NewTable(k).Scheme()
	b := &Buffer{}
	if err := EncodeWhole(b, item("x", map[string]string{"k": "v"}).Object, gvk, Protobuf); err != nil {
		f.Fatal(err)
	}
	f.Add(b.B, uint8(Protobuf))
	f.Add([]byte(`{"apiVersion":"v1","kind":"ConfigMap","data":{"a":"1","a":"2"},"x":[1]}`), uint8(JSON))
	f.Add([]byte("a: &a [*a]\nb: {c: 1}\n"), uint8(YAML))
	f.Fuzz(func(t *testing.T, data []byte, format uint8) {
		if len(data) > 1<<16 {
			return
		}
		obj := &corev1.ConfigMap{}
		fm := Format(format % 3)
		_, err := Decode(obj, gvk, data, fm, false)
		if err == nil {
			err = RightKind(obj, gvk)
		}
		if err != nil {
			if Refuse(scheme, data, fm, gvk, err) == nil {
				t.Fatal("a fault that is no fault")
			}
			return
		}
		// What was read can be written, and read again to the same.
		out := &Buffer{}
		if err := EncodeWhole(out, obj, gvk, Protobuf); err != nil {
			return // text that is not UTF-8
		}
		again := &corev1.ConfigMap{}
		if _, err := Decode(again, gvk, out.B, Protobuf, false); err != nil {
			t.Fatalf("read %q, wrote what cannot be read: %v", data, err)
		}
	})
}

func FuzzPatch(f *testing.F) {
	k := configMaps()
	gvk := corev1.SchemeGroupVersion.WithKind("ConfigMap")
	scheme := kinds.NewTable(k).Scheme()
	current := []byte(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x","finalizers":["a/b"]},"data":{"k":"v"}}`)
	all := []types.PatchType{types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType, types.ApplyYAMLPatchType}
	f.Add([]byte(`[{"op":"add","path":"/metadata/finalizers/-","value":"c/d"}]`), uint8(0))
	f.Add([]byte(`{"data":null}`), uint8(1))
	f.Add([]byte(`{"metadata":{"$setElementOrder/finalizers":["z"],"finalizers":["z"]}}`), uint8(2))
	f.Add([]byte("apiVersion: v1\nkind: ConfigMap\n"), uint8(3))
	f.Fuzz(func(t *testing.T, data []byte, typ uint8) {
		if len(data) > 1<<16 {
			return
		}
		p := &Patch{Scheme: scheme, Type: all[typ%4], Data: data, Warn: func(string) {}}
		if p.Type == types.ApplyYAMLPatchType {
			_, _ = p.Intent(&corev1.ConfigMap{})
			return
		}
		var obj runtime.Object = &corev1.ConfigMap{}
		_ = p.Apply(current, obj, gvk)
	})
}

// Media types, as clients ask for them and as they name what they send.
func FuzzMedia(f *testing.F) {
	for _, header := range []string{"application/json;as=Table;v=v1;g=meta.k8s.io, */*;q=0.8", "application/yaml;q=0.1,application/*", `a/b;c="d,e;f"`, "application/apply-patch+yaml; charset=x"} {
		f.Add(header, "list")
		f.Add(header, "watch")
	}
	f.Fuzz(func(t *testing.T, header, verb string) {
		m, err := Accept(header, verb, true)
		if err == nil && (m.Format > YAML || m.Shape > Partial || m.Format == YAML && verb == "watch" || m.Shape != Objects && m.MetaVersion == "") {
			t.Errorf("%q: %+v", header, m)
		}
		_, _ = PatchType(header, len(verb)%2 == 0)
	})
}

// A merge patch comes to what the library makes of it, which upstream uses.
func TestMergeIsTheLibrarys(t *testing.T) {
	const doc = `{"a":{"b":1,"c":[1,null,{"d":null}]},"n":1.0,"big":123456789012345678901,"s":"<x>","z":null}`
	for _, patch := range []string{
		`{}`, `{"a":null}`, `{"a":{"b":null,"e":{"f":null,"g":1e3}}}`, `{"a":{"c":[null,{"x":null,"y":1}]}}`, `{"a":[{"x":null}]}`,
		`{"s":{"t":null}}`, `{"new":[{"x":null},[null]]}`, `{"n":2.50,"big":null}`, `{"z":{"y":null}}`, `{"x":1,"x":{"y":2}}`,
	} {
		want, err := jsonpatch.MergePatch([]byte(doc), []byte(patch))
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := (&Patch{Data: []byte(patch)}).applyMerge([]byte(doc))
		if err != nil || string(got) != string(want) {
			t.Errorf("%s: %s (%v), want %s", patch, got, err, want)
		}
	}
}
