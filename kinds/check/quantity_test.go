package check

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
)

var podType = reflect.TypeFor[*corev1.Pod]()

// podJSON and podProtobuf are a pod with a quantity, given as it stands in JSON, in two places.
func podJSON(quantity string) []byte {
	return []byte(`{"metadata":{"labels":{"v":"12e45678"}},"spec":{"volumes":[{"name":"a","emptyDir":{"sizeLimit":` + quantity + `}}],` +
		`"containers":[{"name":"c","resources":{"limits":{"cpu":` + quantity + `}}}]}}`)
}

func podProtobuf(quantity string) []byte {
	part := func(number protowire.Number, parts ...[]byte) []byte {
		var all []byte
		for _, p := range parts {
			all = append(all, p...)
		}
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), all)
	}
	q := part(2, part(1, []byte(quantity)))
	limits := part(8, part(1, part(1, []byte("cpu")), q))
	volume := part(1, part(1, []byte("a")), part(2, part(2, part(2, part(1, []byte(quantity))))))
	return append(part(1, part(1, []byte("12e45678"))), part(2, volume, part(2, part(1, []byte("c")), limits))...)
}

func TestQuantitiesThatCostTooMuch(t *testing.T) {
	nines := func(n int) string { return strings.Repeat("9", n) }
	for text, fine := range map[string]bool{
		"1": true, "1500m": true, "1Gi": true, "12E": true, "9e3": true, "9E+18": true, "0.5e-9": true, "1e999": true, nines(60): true, "": true, "x": true,
		"9e9999": false, "9e99999999": false, "9E+99999999": false, "9e-99999999": false, "12345678901234567890e9999999": false,
		nines(1000): false, "0." + nines(1000): false, nines(1 << 20): false, nines(200) + "Ki": false, "-1e+0000001": false, " 9e9999 ": false, ".e12345": false,
	} {
		quoted, _ := json.Marshal(text)
		forms := map[string]error{"JSON": JSONQuantities(podJSON(string(quoted)), podType), "protobuf": ProtobufQuantities(podProtobuf(text), podType)}
		if text != "" && text[0] != ' ' && json.Valid([]byte(text)) {
			forms["JSON number"] = JSONQuantities(podJSON(text), podType)
		}
		for form, err := range forms {
			if (err == nil) != fine {
				t.Errorf("%s, %.40q: %v", form, text, err)
			}
		}
		if _, err := Quantity(text); (err == nil) != (fine && text != "" && text != "x") {
			t.Errorf("%.40q: %v", text, err)
		}
	}
}

// Neither escapes, nor a name twice, nor another case hides a quantity; and what is none may look like one.
func TestQuantitiesInDisguise(t *testing.T) {
	for body, fine := range map[string]bool{
		`{"spec":{"overhead":{"cpu":"9\u00659999999"}}}`:                                                          false,
		`{"spec":{"overhead":{"cpu":"9e\u0039999999"}}}`:                                                          false,
		`{"spec":{"overhead":{"cpu":"9e\u002B99999"}}}`:                                                           false,
		`{"spec":{"overhead":{"cpu":"9e99999","cpu":"1"}}}`:                                                       false,
		`{"spec":{"overhead":{"cpu":"9e99999"}},"spec":{}}`:                                                       false,
		`{"Spec":{"OVERHEAD":{"cpu":"9e99999"}}}`:                                                                 false,
		`{"status":{"containerStatuses":[{"allocatedResources":{"cpu":9e99999}}]}}`:                               false,
		`{"spec":{"initContainers":[{},{"resources":{"requests":{"a":1,"b":9e99999}}}]}}`:                         false,
		`{"metadata":{"name":"7e12345678","annotations":{"a":"` + strings.Repeat("9", 1000) + `","b":"\u0039"}}}`: true,
		`{"spec":{"containers":[{"image":"a:7e1234567","env":[{"name":"cpu","value":"9e99999"}]}]}}`:              true,
		`{"cpu":"9e99999","unknown":{"cpu":[9e99999]}}`:                                                           true,
	} {
		if err := JSONQuantities([]byte(body), podType); (err == nil) != fine {
			t.Errorf("%.90s: %v", body, err)
		}
	}
	if err := JSONQuantities([]byte(`{"a":9e99999,"b":`+strings.Repeat("[", 1<<20)), podType); err == nil {
		t.Error("a million levels are walked")
	}
	if err := ProtobufQuantities(append(podProtobuf("9e99999")[:40], 0xff), podType); err == nil {
		t.Error("a broken message with such a number is let through")
	}
}

// Whatever is let through is read at once, in both forms.
func FuzzQuantities(f *testing.F) {
	for _, text := range []string{"1", "9e99999999", "12345678901234567890e9999999", "1e-999999", "0.1Ki", "9E+999", "\u00659999"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		quoted, err := json.Marshal(text)
		if err != nil {
			return
		}
		var pod corev1.Pod
		use := func() {
			for _, c := range pod.Spec.Containers {
				q := c.Resources.Limits["cpu"]
				_, _, _ = q.String(), q.Value(), q.Cmp(*c.Resources.Limits.Memory())
			}
		}
		if body := podJSON(string(quoted)); JSONQuantities(body, podType) == nil && json.Unmarshal(body, &pod) == nil {
			use()
		}
		pod = corev1.Pod{}
		if body := podProtobuf(text); ProtobufQuantities(body, podType) == nil && pod.Unmarshal(body) == nil {
			use()
		}
		_ = JSONQuantities([]byte(text), podType)
		_ = ProtobufQuantities([]byte(text), podType)
	})
}

func BenchmarkQuantities(b *testing.B) {
	body := bytes.ReplaceAll(podJSON(`"100m"`), []byte("12e45678"), []byte("2026-01-01T00:00:00Z"))
	body = append(body, strings.Repeat(" ", 1024-len(body))...)
	b.ReportAllocs()
	for b.Loop() {
		if err := JSONQuantities(body, podType); err != nil {
			b.Fatal(err)
		}
	}
}
