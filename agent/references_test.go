package agent

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"

	"github.com/kebernetes/kebernetes/client"
	"github.com/kebernetes/kebernetes/cri/fake"
)

// follower counts the holds of each object.
type follower struct {
	mu    sync.Mutex
	holds map[string]int
}

func (f *follower) Follow(resource, namespace, name, selector string) *client.Hold {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := resource + "/" + namespace + "/" + name + selector
	f.holds[key]++
	synced := make(chan struct{})
	close(synced)
	return &client.Hold{Synced: synced, Release: sync.OnceFunc(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.holds[key]--; f.holds[key] == 0 {
			delete(f.holds, key)
		}
	})}
}

// held lists what is held, each with how often.
func (f *follower) held() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for key, n := range f.holds {
		out = append(out, fmt.Sprint(strings.Replace(key, "/default/", "/", 1), "*", n))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// A pod holds what its volumes and environments are made of, until it ends or goes.
func TestReferences(t *testing.T) {
	named := func(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }
	f := &follower{holds: map[string]int{}}
	simulated(t, fake.Options{}, func(o *Options) { o.Follower = f }, func(t *testing.T, c *cluster, _ *fake.Runtime) {
		for _, name := range []string{"env", "from", "key"} {
			if _, err := client.Create(t.Context(), c.client, &corev1.ConfigMap{ObjectMeta: pod(name).ObjectMeta, Data: map[string]string{"k": "v"}}); err != nil {
				t.Fatal(err)
			}
		}
		p := pod("p", "run")
		optional := true
		p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{named("pull")}
		p.Spec.Volumes = []corev1.Volume{
			{Name: "a", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: named("vol")}}},
			{Name: "b", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "vol"}}},
			{Name: "c", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: named("vol")}}, {Secret: &corev1.SecretProjection{LocalObjectReference: named("part")}},
				{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
			}}}},
			{Name: "d", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		}
		main := &p.Spec.Containers[0]
		main.Env = []corev1.EnvVar{{Name: "PLAIN", Value: "x"},
			{Name: "KEY", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: named("key"), Key: "k"}}},
			{Name: "SECRET", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: named("key"), Key: "k", Optional: &optional}}},
		}
		main.EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: named("from")}},
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: named("from"), Optional: &optional}}}
		c.create(p)
		const first = "configmaps/from*1 configmaps/key*1 configmaps/vol*1 secrets/from*1 secrets/key*1 secrets/part*1 secrets/vol*1"
		if got := f.held(); got != first {
			t.Errorf("held %s\nwant %s", got, first)
		}
		once := pod("once", "exit-after", "10s", "0")
		once.Spec.RestartPolicy = corev1.RestartPolicyNever
		once.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: named("from")}}}
		c.create(once)
		if got, want := f.held(), strings.Replace(first, "configmaps/from*1", "configmaps/from*2", 1); got != want {
			t.Errorf("held by two pods %s\nwant %s", got, want)
		}
		after(20e9)
		c.want("once", "Succeeded main:Completed(0)*0")
		if got := f.held(); got != first {
			t.Errorf("held after one has ended %s\nwant %s", got, first)
		}
		c.delete("p", new(int64))
		after(60e9)
		synctest.Wait()
		if got := f.held(); got != "" || c.pod("p") != nil {
			t.Errorf("held after the pod is gone (%v): %s", c.pod("p") == nil, got)
		}
	})
}
