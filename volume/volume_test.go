package volume

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// cluster is a tiny Objects.
type cluster struct {
	configMaps map[string]*corev1.ConfigMap
	secrets    map[string]*corev1.Secret
	claims     map[string]*corev1.PersistentVolumeClaim
	volumes    map[string]*corev1.PersistentVolume
	tokens     int
	tokenErr   error
}

func (c *cluster) ConfigMap(_ context.Context, _, name string) (*corev1.ConfigMap, error) {
	if cm := c.configMaps[name]; cm != nil {
		return cm, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "configmap"}, name)
}

func (c *cluster) Secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	if s := c.secrets[name]; s != nil {
		return s, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secret"}, name)
}

func (c *cluster) Claim(_ context.Context, _, name string) (*corev1.PersistentVolumeClaim, error) {
	if claim := c.claims[name]; claim != nil {
		return claim, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "persistentvolumeclaims"}, name)
}

func (c *cluster) PersistentVolume(_ context.Context, name string) (*corev1.PersistentVolume, error) {
	if pv := c.volumes[name]; pv != nil {
		return pv, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "persistentvolumes"}, name)
}

func (c *cluster) Node(context.Context) (*corev1.Node, error) {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{corev1.LabelHostname: "n1"}}}, nil
}

func (c *cluster) Token(_ context.Context, _ *corev1.Pod, _ []string, seconds int64) (*authenticationv1.TokenRequestStatus, error) {
	if c.tokenErr != nil {
		return nil, c.tokenErr
	}
	c.tokens++
	return &authenticationv1.TokenRequestStatus{
		Token: fmt.Sprintf("token-%d", c.tokens), ExpirationTimestamp: metav1.NewTime(time.Now().Add(time.Duration(seconds) * time.Second)),
	}, nil
}

func (c *cluster) Allocatable() corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi")}
}

func needRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
}

func newMounter(t *testing.T, c *cluster) *Mounter {
	t.Helper()
	needRoot(t)
	m := New(Options{Dir: filepath.Join(t.TempDir(), "pods"), Objects: c})
	t.Cleanup(func() {
		uids, err := m.Pods()
		if err != nil {
			t.Error(err)
		}
		for _, uid := range uids {
			if err := m.Unmount(context.Background(), uid); err != nil {
				t.Error(err)
			}
		}
	})
	return m
}

func testPod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web-0", Namespace: "shop", UID: "uid-1", Labels: map[string]string{"b": "2", "a": `say "hi"`}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Resources: corev1.ResourceRequirements{
			Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")},
		}}}},
	}
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func mode(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode()
}

func TestConfigMapFollowsItsObject(t *testing.T) {
	c := &cluster{configMaps: map[string]*corev1.ConfigMap{"cfg": {Data: map[string]string{"a": "1", "b": "2"}, BinaryData: map[string][]byte{"bin": {0, 1}}}}}
	m := newMounter(t, c)
	pod := testPod()
	v := &corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cfg"}}}}
	got, err := m.Mount(t.Context(), pod, v)
	if err != nil || !got.ReadOnly {
		t.Fatalf("%+v, %v", got, err)
	}
	if read(t, got.Path, "a") != "1" || read(t, got.Path, "bin") != "\x00\x01" || mode(t, filepath.Join(got.Path, "a")).Perm() != 0o644 {
		t.Error("first contents")
	}
	before, _ := os.Readlink(filepath.Join(got.Path, "..data"))
	if _, err := m.Mount(t.Context(), pod, v); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Readlink(filepath.Join(got.Path, "..data")); after != before {
		t.Error("an unchanged volume was written again")
	}
	c.configMaps["cfg"] = &corev1.ConfigMap{Data: map[string]string{"a": "new", "c": "3"}}
	if _, err := m.Mount(t.Context(), pod, v); err != nil {
		t.Fatal(err)
	}
	entries, _ := os.ReadDir(got.Path)
	var names []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "..2") {
			names = append(names, e.Name())
		}
	}
	if read(t, got.Path, "a") != "new" || !slices.Equal(names, []string{"..data", "a", "c"}) || len(entries) != 4 {
		t.Errorf("after the update: %v of %d", names, len(entries))
	}
}

func TestItemsModesAndWhatIsMissing(t *testing.T) {
	c := &cluster{configMaps: map[string]*corev1.ConfigMap{"cfg": {Data: map[string]string{"a": "1"}}}, secrets: map[string]*corev1.Secret{"s": {Data: map[string][]byte{"k": []byte("v")}}}}
	m := newMounter(t, c)
	ref := corev1.LocalObjectReference{Name: "cfg"}
	yes, tight := true, int32(0o400)
	for name, test := range map[string]struct {
		source corev1.VolumeSource
		file   string
		mode   os.FileMode
		err    string
	}{
		"item": {corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: ref, Items: []corev1.KeyToPath{{Key: "a", Path: "deep/er", Mode: &tight}}}}, "deep/er", 0o400, ""},
		"no key": {corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: ref, Items: []corev1.KeyToPath{{Key: "z", Path: "z"}}}}, "", 0,
			`MountVolume.SetUp failed for volume "v" : configmap references non-existent config key: z`},
		"no map": {corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "no"}}}, "", 0,
			`MountVolume.SetUp failed for volume "v" : configmap "no" not found`},
		"optional":  {corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "no"}, Optional: &yes}}, "", 0, ""},
		"secret":    {corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s", DefaultMode: &tight}}, "k", 0o400, ""},
		"no secret": {corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "no"}}, "", 0, `MountVolume.SetUp failed for volume "v" : secret "no" not found`},
		"huge pages": {corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumHugePages}}, "", 0,
			`MountVolume.SetUp failed for volume "v" : medium "HugePages" is not supported by this node`},
		"iscsi": {corev1.VolumeSource{ISCSI: &corev1.ISCSIVolumeSource{}}, "", 0,
			`MountVolume.SetUp failed for volume "v" : no volume plugin matched`},
	} {
		t.Run(name, func(t *testing.T) {
			pod := testPod()
			pod.UID += "-items"
			got, err := m.Mount(t.Context(), pod, &corev1.Volume{Name: "v", VolumeSource: test.source})
			if fmt.Sprint(err) != test.err && !(err == nil && test.err == "") {
				t.Fatalf("error %v, want %q", err, test.err)
			}
			if test.file != "" && mode(t, filepath.Join(got.Path, test.file)).Perm() != test.mode {
				t.Errorf("mode %v", mode(t, filepath.Join(got.Path, test.file)))
			}
			if err := m.Unmount(t.Context(), pod.UID); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestProjectedTokenIsRenewed(t *testing.T) {
	needRoot(t)
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{configMaps: map[string]*corev1.ConfigMap{"kube-root-ca.crt": {Data: map[string]string{"ca.crt": "CA"}}}}
		m := newMounter(t, c)
		pod := testPod()
		life := int64(3607)
		v := &corev1.Volume{Name: "kube-api-access", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &life}},
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.namespace"}},
				{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
				{Path: "memory", ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "main", Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}},
				{Path: "cpu", ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "main", Resource: "limits.cpu"}},
			}}},
		}}}}
		got, err := m.Mount(t.Context(), pod, v)
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{"token": "token-1", "ca.crt": "CA", "namespace": "shop", "labels": "a=\"say \\\"hi\\\"\"\nb=\"2\"", "memory": "64", "cpu": "4"} {
			if have := read(t, got.Path, name); have != want {
				t.Errorf("%s: %q, want %q", name, have, want)
			}
		}
		if there, err := m.Mounts.IsMount(got.Path); err != nil || !there {
			t.Errorf("a token must not reach the disk: tmpfs %v, %v", there, err)
		}
		if wait := time.Until(got.Refresh); wait < 47*time.Minute || wait > 49*time.Minute {
			t.Errorf("refresh in %v, want 80%% of the life", wait)
		}
		if got, err = m.Mount(t.Context(), pod, v); err != nil || read(t, got.Path, "token") != "token-1" {
			t.Errorf("issued again before its time: %v", err)
		}
		time.Sleep(time.Until(got.Refresh))
		c.tokenErr = apierrors.NewInternalError(fmt.Errorf("down"))
		if got, err = m.Mount(t.Context(), pod, v); err != nil || read(t, got.Path, "token") != "token-1" {
			t.Errorf("a token that still lives must be kept while the server is down: %v", err)
		}
		c.tokenErr = nil
		time.Sleep(time.Until(got.Refresh))
		if got, err = m.Mount(t.Context(), pod, v); err != nil || read(t, got.Path, "token") != "token-2" {
			t.Errorf("not renewed: %v", err)
		}
	})
}

func TestOwnership(t *testing.T) {
	c := &cluster{secrets: map[string]*corev1.Secret{"s": {Data: map[string][]byte{"k": []byte("v")}}}}
	m := newMounter(t, c)
	pod := testPod()
	group, tight := int64(1234), int32(0o400)
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &group}
	secret, err := m.Mount(t.Context(), pod, &corev1.Volume{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s", DefaultMode: &tight}}})
	if err != nil {
		t.Fatal(err)
	}
	empty, err := m.Mount(t.Context(), pod, &corev1.Volume{Name: "e", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{filepath.Join(secret.Path, "k"): 0o440, empty.Path: os.ModeDir | os.ModeSetgid | 0o777} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if gid := info.Sys().(*syscall.Stat_t).Gid; gid != 1234 || info.Mode() != want {
			t.Errorf("%s: group %d mode %v, want 1234 %v", path, gid, info.Mode(), want)
		}
	}
}

func TestEmptyDirInMemoryIsBounded(t *testing.T) {
	m := newMounter(t, &cluster{})
	limit := resource.MustParse("1Mi")
	got, err := m.Mount(t.Context(), testPod(), &corev1.Volume{Name: "e", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: &limit}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(got.Path, "big"), make([]byte, 2<<20), 0o644); err == nil {
		t.Error("2 MiB fit into a volume of 1 MiB")
	}
	if mode(t, got.Path).Perm() != 0o777 {
		t.Errorf("mode %v", mode(t, got.Path))
	}
	able := t.TempDir()
	if unix.Mount("tmpfs", able, "tmpfs", 0, "noswap") != nil {
		return
	}
	if err := unix.Unmount(able, 0); err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(read(t, "/proc/mounts")) {
		if strings.Contains(line, got.Path) && !strings.Contains(line, "noswap") {
			t.Errorf("what is in memory may be swapped to a disk: %s", line)
		}
	}
}

func TestHostPathTypes(t *testing.T) {
	m := New(Options{Objects: &cluster{}})
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	socket, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	for _, test := range []struct {
		kind corev1.HostPathType
		path string
		err  string
	}{
		{corev1.HostPathUnset, dir + "/none", ""},
		{corev1.HostPathDirectory, dir, ""},
		{corev1.HostPathDirectory, dir + "/file", "is not a directory"},
		{corev1.HostPathDirectory, dir + "/none", "is not a directory"},
		{corev1.HostPathDirectoryOrCreate, dir + "/made/deep", ""},
		{corev1.HostPathFile, dir + "/file", ""},
		{corev1.HostPathFile, dir, "is not a file"},
		{corev1.HostPathFileOrCreate, dir + "/newfile", ""},
		{corev1.HostPathFileOrCreate, dir, "is not a file"},
		{corev1.HostPathSocket, dir + "/socket", ""},
		{corev1.HostPathSocket, dir + "/file", "is not a socket file"},
		{corev1.HostPathCharDev, "/dev/null", ""},
		{corev1.HostPathCharDev, dir, "is not a character device"},
		{corev1.HostPathBlockDev, "/dev/null", "is not a block device"},
	} {
		_, err := m.Mount(t.Context(), testPod(), &corev1.Volume{Name: "h", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: test.path, Type: &test.kind}}})
		want := ""
		if test.err != "" {
			want = `MountVolume.SetUp failed for volume "h" : hostPath type check failed: ` + test.path + " " + test.err
		}
		if got := fmt.Sprint(err); (err == nil) != (want == "") || err != nil && got != want {
			t.Errorf("%s %s: %v, want %q", test.kind, test.path, err, want)
		}
	}
}

func TestSubPathStaysInside(t *testing.T) {
	m := newMounter(t, &cluster{})
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "file"), []byte("inside"), 0o644); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"good": "file", "up": "../..", "abs": "/etc"} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, bad := range []string{"../x", "/etc", "a/../../b", "up/etc", "abs/passwd", "abs/new/deep"} {
		if got, err := m.SubPath("uid-2", "v", "c", 0, root, bad, false); err == nil {
			t.Errorf("%q led to %s", bad, got)
		}
	}
	if _, err := os.Stat("/etc/new"); err == nil {
		t.Error("a directory was made outside")
	}
	for i, sub := range []string{"file", "good"} {
		got, err := m.SubPath("uid-2", "v", "c", i, root, sub, true)
		if err != nil || read(t, got) != "inside" {
			t.Errorf("%q: %v", sub, err)
		}
		if err := os.WriteFile(got, nil, 0o644); err == nil {
			t.Errorf("%q can be written", sub)
		}
	}
	made, err := m.SubPath("uid-2", "v", "c", 2, root, "new/deep", false)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(made, "x"), []byte("y"), 0o644); err != nil || read(t, root, "new/deep/x") != "y" {
		t.Errorf("not the same directory: %v", err)
	}
	if again, err := m.SubPath("uid-2", "v", "c", 2, root, "new/deep", false); err != nil || read(t, again, "x") != "y" {
		t.Errorf("a second container: %v", err)
	}
	if err := m.Unmount(t.Context(), "uid-2"); err != nil {
		t.Fatal(err)
	}
	if read(t, root, "new/deep/x") != "y" {
		t.Error("unmounting deleted what was behind the mount")
	}
}

// The kernel lists mounts by paths without links: one below a link must be found all the same, or what is behind it would be deleted.
func TestUnmountBelowALink(t *testing.T) {
	real := newMounter(t, &cluster{})
	link := filepath.Join(t.TempDir(), "link")
	if err := os.MkdirAll(real.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real.Dir, link); err != nil {
		t.Fatal(err)
	}
	o := real.Options
	o.Dir = link
	m := New(o)
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "x"), []byte("y"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := m.SubPath("uid-1", "v", "c", 0, root, ".", false); err != nil {
		t.Fatal(err)
	}
	if err := m.Unmount(t.Context(), "uid-1"); err != nil {
		t.Fatal(err)
	}
	if read(t, root, "x") != "y" {
		t.Error("unmounting deleted what was behind the mount")
	}
}

func TestUnmountAfterACrash(t *testing.T) {
	c := &cluster{secrets: map[string]*corev1.Secret{"s": {Data: map[string][]byte{"k": []byte("v")}}}}
	m := newMounter(t, c)
	if _, err := m.Mount(t.Context(), testPod(), &corev1.Volume{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}}); err != nil {
		t.Fatal(err)
	}
	next := New(m.Options)
	uids, err := next.Pods()
	if err != nil || len(uids) != 1 {
		t.Fatalf("%v, %v", uids, err)
	}
	if err := next.Unmount(t.Context(), uids[0]); err != nil {
		t.Fatal(err)
	}
	if left, _ := next.Mounts.Below(m.Dir); len(left) > 0 {
		t.Errorf("mounts left: %v", left)
	}
	if uids, _ := next.Pods(); len(uids) > 0 {
		t.Errorf("files left: %v", uids)
	}
	if err := next.Unmount(t.Context(), "../x"); err == nil {
		t.Error("a uid with a slash was taken")
	}
}
