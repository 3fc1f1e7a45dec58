package crash

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// memoryBound is the most that a server may hold, whatever clients send.
const memoryBound = 350 << 20

const (
	quotas      = "/api/v1/namespaces/default/resourcequotas"
	configMaps  = "/api/v1/namespaces/default/configmaps"
	deployments = "/apis/apps/v1/namespaces/default/deployments"
	jsonType    = "application/json"
	yamlType    = "application/yaml"
	protoType   = "application/vnd.kubernetes.protobuf"
)

// hostile is a request that nobody should send, and the codes that may answer it.
type hostile struct {
	method, path, contentType string
	body                      []byte
	codes                     []int
}

func configMap(data string) []byte {
	return []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":"x"},"data":` + data + `}`)
}

// laughs is a YAML document of few bytes that would be of billions: each line repeats the one before it ten times.
func laughs() []byte {
	var b strings.Builder
	b.WriteString("apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: x}\nx0: &x0 lol\n")
	for i := range 12 {
		fmt.Fprintf(&b, "x%d: &x%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*x%d,", i), 10), ","))
	}
	return []byte(b.String())
}

// manyLabels is an object with n labels.
func manyLabels(n int) []byte {
	labels := map[string]string{}
	for i := range n {
		labels[fmt.Sprint("l", i)] = "v"
	}
	data, _ := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"generateName": "labels-", "labels": labels}})
	return data
}

// doubling is a JSON patch that doubles a field again and again.
func doubling() []byte {
	var ops []string
	for i := range 40 {
		ops = append(ops, `{"op":"copy","from":"/data","path":"/data/`+fmt.Sprint("k", i)+`"}`)
	}
	return []byte("[" + strings.Join(ops, ",") + "]")
}

// quota is a quota with a quantity; quotaProtobuf is the same as protobuf.
func quota(quantity string) []byte {
	return []byte(`{"apiVersion":"v1","kind":"ResourceQuota","metadata":{"generateName":"x"},"spec":{"hard":{"cpu":"` + quantity + `"}}}`)
}

func quotaProtobuf(quantity string) []byte {
	part := func(number protowire.Number, parts ...[]byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), bytes.Join(parts, nil))
	}
	text := func(number protowire.Number, value string) []byte { return part(number, []byte(value)) }
	object := [][]byte{part(1, text(2, "x")), part(2, part(1, text(1, "cpu"), part(2, text(1, quantity))))}
	return append([]byte("k8s\x00"), append(part(1, text(1, "v1"), text(2, "ResourceQuota")), part(2, object...)...)...)
}

// hugeQuantities adds requests with quantities that take minutes to read, or to calculate with, in every form that a body has.
func hugeQuantities(to map[string]hostile) {
	const victim = quotas + "/victim?fieldManager=m"
	for name, q := range map[string]string{
		"a huge exponent": "9e99999999", "many digits and a huge exponent": "12345678901234567890e9999999", "a tiny one": "12345678901234567890e-99999999",
		"a million digits": strings.Repeat("9", 1<<20),
	} {
		to["quantity of "+name] = hostile{http.MethodPost, quotas, jsonType, quota(q), []int{400}}
		to["quantity of "+name+", escaped"] = hostile{http.MethodPost, quotas, jsonType, quota(`\u0039` + q), []int{400}}
		to["quantity of "+name+", YAML"] = hostile{http.MethodPost, quotas, yamlType, []byte("metadata: {generateName: x}\nspec: {hard: {cpu: '" + q + "'}}\n"), []int{400}}
		to["quantity of "+name+", protobuf"] = hostile{http.MethodPost, quotas, protoType, quotaProtobuf(q), []int{400}}
		to["quantity of "+name+", JSON patch"] = hostile{http.MethodPatch, victim, "application/json-patch+json",
			[]byte(`[{"op":"replace","path":"/spec/hard/cpu","value":"` + q + `"}]`), []int{422}}
		for _, kind := range []string{"merge", "strategic-merge"} {
			to["quantity of "+name+", "+kind+" patch"] = hostile{http.MethodPatch, victim, "application/" + kind + "-patch+json",
				[]byte(`{"spec":{"hard":{"cpu":"` + q + `"}}}`), []int{422}}
		}
		to["quantity of "+name+", applied"] = hostile{http.MethodPatch, victim, "application/apply-patch+yaml",
			[]byte(`{"apiVersion":"v1","kind":"ResourceQuota","metadata":{"name":"victim"},"spec":{"hard":{"cpu":"` + q + `"}}}`), []int{400}}
		to["quantity of "+name+", in an annotation"] = hostile{http.MethodPost, "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers", jsonType,
			[]byte(`{"metadata":{"generateName":"x","annotations":{"autoscaling.alpha.kubernetes.io/metrics":"[{\"type\":\"Resource\",\"resource\":{\"name\":\"cpu\",\"targetAverageValue\":\"` +
				q + `\"}}]"}},"spec":{"maxReplicas":1,"scaleTargetRef":{"kind":"Deployment","name":"d"}}}`), []int{201, 422}}
	}
}

func bomb(t *testing.T) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := io.CopyN(z, zeros{}, 1<<30); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func hostileRequests() map[string]hostile {
	deep := func(open, shut string, n int) string { return strings.Repeat(open, n) + "1" + strings.Repeat(shut, n) }
	post := func(path, contentType string, body []byte, codes ...int) hostile {
		return hostile{http.MethodPost, path, contentType, body, codes}
	}
	patch := func(contentType string, body []byte, codes ...int) hostile {
		return hostile{http.MethodPatch, configMaps + "/victim?fieldManager=m", contentType, body, codes}
	}
	deployment := func(spec string) []byte {
		return []byte(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"generateName":"x"},"spec":` + spec + `}`)
	}
	magic := []byte("k8s\x00")
	return map[string]hostile{
		"4 MiB":                        post(configMaps, jsonType, configMap(`{"a":"`+strings.Repeat("x", 4<<20)+`"}`), 413),
		"4 MiB of white space":         post(configMaps, jsonType, bytes.Repeat([]byte(" "), 4<<20), 413),
		"10,000 objects deep":          post(configMaps, jsonType, configMap(deep(`{"a":`, "}", 10_000)), 400),
		"1,000,000 arrays deep":        post(configMaps, jsonType, []byte(deep("[", "]", 1_000_000)), 400),
		"arrays that do not end":       post(configMaps, jsonType, bytes.Repeat([]byte("["), 3<<20), 400),
		"deep YAML":                    post(configMaps, yamlType, []byte(deep("[", "]", 100_000)), 400),
		"deep YAML block":              post(configMaps, yamlType, bytes.Repeat([]byte("- "), 500_000), 400),
		"billion laughs":               post(configMaps, yamlType, laughs(), 400),
		"billion laughs, applied":      patch("application/apply-patch+yaml", laughs(), 400),
		"YAML that contains itself":    post(configMaps, yamlType, []byte("a: &a [*a]\n"), 400),
		"huge number":                  post(deployments, jsonType, deployment(`{"replicas":1e999999}`), 400),
		"number of a million digits":   post(deployments, jsonType, deployment(`{"replicas":`+strings.Repeat("9", 1<<20)+`}`), 400),
		"invalid UTF-8":                post(configMaps, jsonType, configMap("{\"a\":\"\xff\xfe\"}"), 201, 400, 422),
		"invalid UTF-8 in YAML":        post(configMaps, yamlType, []byte("data: {a: \"\xff\"}\n"), 400),
		"100,000 labels":               post(configMaps, jsonType, manyLabels(100_000), 201, 413, 422),
		"keys twice, strictly":         post(configMaps+"?fieldValidation=Strict", jsonType, configMap(`{"a":"1","a":"2"}`), 400),
		"keys twice":                   post(configMaps, jsonType, configMap(`{"a":"1","a":"2"}`), 201),
		"100,000 unknown fields":       post(configMaps, jsonType, []byte(`{"metadata":{"generateName":"x"}`+strings.Repeat(`,"x":1`, 100_000)+`}`), 201, 400),
		"wrong media type":             post(configMaps, "text/plain", configMap("{}"), 415),
		"no media type of ours":        post(configMaps, ";;;", configMap("{}"), 415),
		"protobuf cut short":           post(configMaps, protoType, append(magic, 10, 15, 10, 2, 'v', '1'), 400),
		"protobuf of huge length":      post(configMaps, protoType, append(magic, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f), 400),
		"protobuf without its magic":   post(configMaps, protoType, configMap("{}"), 400),
		"unknown kind":                 post(configMaps, jsonType, []byte(`{"apiVersion":"v1","kind":"Nonsense"}`), 400),
		"another kind":                 post(configMaps, jsonType, []byte(`{"apiVersion":"v1","kind":"Pod"}`), 400),
		"unknown resource":             post("/api/v1/namespaces/default/nonsenses", jsonType, configMap("{}"), 404),
		"wrong types":                  post(deployments, jsonType, deployment(`{"replicas":"three","template":[]}`), 400),
		"nothing":                      post(configMaps, jsonType, nil, 400),
		"null":                         post(configMaps, jsonType, []byte("null"), 201, 400, 422),
		"an array":                     post(configMaps, jsonType, []byte("[]"), 400),
		"JSON patch that doubles":      patch("application/json-patch+json", doubling(), 422),
		"JSON patch of 10,001":         patch("application/json-patch+json", []byte("["+strings.TrimSuffix(strings.Repeat(`{"op":"test","path":"/kind","value":"ConfigMap"},`, 10_001), ",")+"]"), 413),
		"JSON patch far outside":       patch("application/json-patch+json", []byte(`[{"op":"add","path":"/metadata/finalizers/99999999999","value":"a/b"}]`), 422),
		"merge patch, deep":            patch("application/merge-patch+json", []byte(deep(`{"a":`, "}", 10_000)), 413),
		"merge patch, nearly too deep": patch("application/merge-patch+json", []byte(`{"data":`+deep(`{"a":`, "}", 9_000)+`}`), 413),
		"merge patch, deep and large":  patch("application/merge-patch+json", []byte(`{"data":`+strings.Repeat(`{"a":`, 9_000)+`"`+strings.Repeat("x", 2<<20)+`"`+strings.Repeat("}", 9_001)), 413),
		"JSON patch, deep and large":   patch("application/json-patch+json", []byte(`[{"op":"add","path":"/data","value":`+strings.Repeat(`{"a":`, 9_000)+`"`+strings.Repeat("x", 2<<20)+`"`+strings.Repeat("}", 9_000)+`},{"op":"test","path":"/data`+strings.Repeat("/a", 9_000)+`","value":1}]`), 413),
		"strategic patch, deep":        patch("application/strategic-merge-patch+json", []byte(`{"metadata":`+deep(`{"a":`, "}", 9_000)+`}`), 200, 400, 422),
		"apply, deep":                  patch("application/apply-patch+yaml", []byte(deep(`{"a":`, "}", 9_000)), 400, 422),
		"deep managed fields": post(configMaps, jsonType, []byte(`{"metadata":{"generateName":"x","managedFields":[{"manager":"m","operation":"Apply","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":`+
			deep(`{"f:a":`, "}", 9_000)+`}]}}`), 201, 400, 422),
		"long URI":      {http.MethodGet, configMaps + "?labelSelector=" + strings.Repeat("a,", 40_000), "", nil, []int{414}},
		"many selector": {http.MethodGet, configMaps + "?labelSelector=" + strings.Repeat("a,", 20_000) + "b", "", nil, []int{200, 400}},
		"bad continue":  {http.MethodGet, configMaps + "?limit=1&continue=" + strings.Repeat("A", 10_000), "", nil, []int{400}},
	}
}

// Whatever a client sends, it gets upstream's kind of answer, and the server goes on in its memory.
func TestHostileBodies(t *testing.T) {
	s := start(t, t.TempDir())
	if code, answer, err := s.do(t.Context(), http.MethodPost, configMaps, []byte(`{"metadata":{"name":"victim"},"data":{"a":"`+strings.Repeat("x", 1<<20)+`"}}`)); code != 201 {
		t.Fatalf("%d %v %.200s", code, err, answer)
	}
	if code, answer, err := s.do(t.Context(), http.MethodPost, quotas, []byte(`{"metadata":{"name":"victim"},"spec":{"hard":{"cpu":"1"}}}`)); code != 201 {
		t.Fatalf("%d %v %.200s", code, err, answer)
	}
	requests := hostileRequests()
	hugeQuantities(requests)
	requests["gzip bomb"] = hostile{http.MethodPost, configMaps, jsonType, bomb(t), []int{400, 415}}
	for name, h := range requests {
		t.Run(name, func(t *testing.T) {
			header := []string{"Content-Type", h.contentType}
			if name == "gzip bomb" {
				header = append(header, "Content-Encoding", "gzip")
			}
			// Two at a time, as memory is what this is about.
			var wait sync.WaitGroup
			for range 2 {
				wait.Go(func() { s.answers(t, h, header) })
			}
			wait.Wait()
		})
	}
	s.unharmed(t)
}

// answers checks the answer to a hostile request.
func (s *server) answers(t *testing.T, h hostile, header []string) {
	code, answer, err := s.do(t.Context(), h.method, h.path, h.body, header...)
	if err != nil {
		t.Errorf("no answer: %v", err)
		return
	}
	fits := false
	for _, want := range h.codes {
		fits = fits || code == want
	}
	if !fits {
		t.Errorf("%d, want one of %v: %.300s", code, h.codes, answer)
	}
	var status metav1.Status
	if err := json.Unmarshal(answer, &status); err != nil || code >= 400 && (status.Kind != "Status" || int(status.Code) != code || status.Message == "") {
		t.Errorf("%d: the answer is no Status: %v %.300s", code, err, answer)
	}
}

// unharmed checks that the server is ready and within its memory.
func (s *server) unharmed(t *testing.T) {
	t.Helper()
	if code, _, err := s.do(t.Context(), http.MethodGet, "/readyz", nil); code != http.StatusOK {
		t.Errorf("readyz: %d %v\n%.3000s", code, err, s.log)
	}
	if strings.Contains(s.log.String(), "panic") {
		t.Errorf("panic:\n%s", s.log)
	}
	peak := s.resident("VmHWM")
	t.Logf("at most %d MiB", peak>>20)
	if peak > memoryBound {
		t.Errorf("%d MiB held, more than %d", peak>>20, memoryBound>>20)
	}
}

// Clients that send drop by drop cost no more than their connections, and are cut off in time.
func TestSlowClients(t *testing.T) {
	s := start(t, t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	address := strings.TrimPrefix(s.url, "https://")
	dial := func() net.Conn {
		c, err := (&tls.Dialer{Config: s.tls}).DialContext(ctx, "tcp", address)
		if err != nil {
			t.Error(err)
			return nil
		}
		return c
	}
	var wait sync.WaitGroup
	for i := range 300 {
		wait.Go(func() {
			c := dial()
			if c == nil {
				return
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(patience))
			if i%2 == 0 { // a head that does not end
				fmt.Fprintf(c, "GET /readyz HTTP/1.1\r\nHost: a\r\nX: ")
			} else { // a body that does not end
				fmt.Fprintf(c, "POST %s?timeout=2s HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{", configMaps)
			}
			answer, err := io.ReadAll(c) // until the server ends it
			if err != nil && i%2 == 0 {
				t.Errorf("a head that does not end: %v", err)
			}
			if i%2 == 1 && !bytes.Contains(answer, []byte(`"kind":"Status"`)) {
				t.Errorf("a body that does not end: %v %q", err, answer)
			}
		})
	}
	begin := time.Now()
	for range 20 {
		if code, _, err := s.do(ctx, http.MethodPost, configMaps, configMap(`{"a":"b"}`)); code != http.StatusCreated {
			t.Errorf("beside them: %d %v", code, err)
		}
	}
	t.Logf("20 writes beside them took %s", time.Since(begin).Round(time.Millisecond))
	wait.Wait()
	s.unharmed(t)
}

// Ten thousand watches are served, all of them, from one copy.
func TestManyWatches(t *testing.T) {
	watches := 10_000
	if testing.Short() {
		watches = 1000
	}
	s := start(t, t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	bodies := make([]io.ReadCloser, watches)
	slots := make(chan struct{}, 100)
	var wait sync.WaitGroup
	for i := range watches {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+configMaps+"?watch=1&fieldSelector=metadata.name%3Dnews", nil)
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := s.http.Do(req)
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Errorf("watch %d: %v", i, err)
				return
			}
			bodies[i] = resp.Body
		})
	}
	wait.Wait()
	if t.Failed() {
		return
	}
	if code, answer, err := s.do(ctx, http.MethodPost, configMaps, []byte(`{"metadata":{"name":"news"},"data":{"a":"b"}}`)); code != http.StatusCreated {
		t.Fatalf("%d %v %s", code, err, answer)
	}
	for i, body := range bodies {
		buf := make([]byte, 8)
		if _, err := io.ReadFull(body, buf); err != nil || string(buf) != `{"type":` {
			t.Fatalf("watch %d: %v %q", i, err, buf)
		}
	}
	s.unharmed(t)
}
