// Command genschema writes the merge schema that server-side apply follows: which lists are sets, which are keyed and by
// what, which structs are atomic. It takes it from the module of upstream's typed client, whose own form is YAML that costs
// 20 MB and 100 ms at start, and writes it reduced to the served API versions. Run by go generate in apiserver/fields; imported by nobody.
package main

import (
	"compress/gzip"
	"encoding/gob"
	"fmt"
	"io"
	"os"
	"regexp"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
)

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "genschema:", err)
		os.Exit(1)
	}
}

func run(file string) error {
	s, err := reduced()
	if err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := write(f, s); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return f.Close()
}

func write(w io.Writer, s *schema.Schema) error {
	z, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	gob.Register(map[string]any{})
	gob.Register([]any{})
	if err := gob.NewEncoder(z).Encode(s); err != nil {
		return err
	}
	return z.Close()
}

// stable matches the type names of API versions without alpha or beta.
var stable = regexp.MustCompile(`^io\.k8s\.api\..*\.v[0-9]+\.[A-Za-z0-9]+$`)

// reduced returns upstream's schema without the types that no stable version reaches.
func reduced() (*schema.Schema, error) {
	cm := &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}}
	typed, err := applyconfigurations.NewTypeConverter(scheme.Scheme).ObjectToTyped(cm)
	if err != nil {
		return nil, fmt.Errorf("read the schema: %w", err)
	}
	all := map[string]*schema.TypeDef{}
	types := typed.Schema().Types
	for i := range types {
		all[types[i].Name] = &types[i]
	}
	wanted := map[string]bool{}
	for name := range all {
		if stable.MatchString(name) {
			mark(all, wanted, name)
		}
	}
	out := &schema.Schema{}
	for i := range types {
		if wanted[types[i].Name] {
			out.Types = append(out.Types, types[i])
		}
	}
	return out, nil
}

func mark(all map[string]*schema.TypeDef, wanted map[string]bool, name string) {
	if wanted[name] || all[name] == nil {
		return
	}
	wanted[name] = true
	markAtom(all, wanted, &all[name].Atom)
}

func markAtom(all map[string]*schema.TypeDef, wanted map[string]bool, a *schema.Atom) {
	ref := func(r *schema.TypeRef) {
		if r.NamedType != nil {
			mark(all, wanted, *r.NamedType)
			return
		}
		markAtom(all, wanted, &r.Inlined)
	}
	if a.List != nil {
		ref(&a.List.ElementType)
	}
	if a.Map != nil {
		ref(&a.Map.ElementType)
		for i := range a.Map.Fields {
			f := &a.Map.Fields[i]
			f.Default = plain(f.Default)
			ref(&f.Type)
		}
	}
}

// plain returns a default as JSON would decode it: gob does not know YAML's map[any]any.
func plain(v any) any {
	m, ok := v.(map[any]any)
	if !ok {
		return v
	}
	out := map[string]any{}
	for k, e := range m {
		out[fmt.Sprint(k)] = plain(e)
	}
	return out
}
