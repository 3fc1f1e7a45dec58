// Package critest is the contract of cri.Runtime: one suite that the fake and a real containerd pass, and the means to start
// that containerd for a test (Containerd). Only tests import it.
package critest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kebernetes/kebernetes/cri"
)

// cgroupRoot is the parent of what tests run.
const cgroupRoot = "/critest"

// Subject is a runtime under test.
type Subject struct {
	Runtime cri.Runtime
	// Image can be pulled and holds /app; Missing cannot be pulled.
	Image, Missing string
}

// Run runs the suite; each test gets a Subject of its own from start, or shares one.
func Run(t *testing.T, start func(t *testing.T) Subject) {
	for name, test := range map[string]func(*testing.T, *fixture){
		"life of a container":      testLife,
		"exit codes":               testExit,
		"grace of a stop":          testGrace,
		"events in order":          testEvents,
		"gone things":              testGone,
		"filters":                  testFilters,
		"logs and rotation":        testLogs,
		"exec":                     testExec,
		"images":                   testImages,
		"resources":                testResources,
		"no container without pod": testStoppedSandbox,
		"what the runtime says":    testHost,
	} {
		t.Run(name, func(t *testing.T) {
			f := &fixture{Subject: start(t), t: t, ctx: t.Context(), changed: make(chan struct{}, 1)}
			f.watch()
			if _, err := f.Runtime.PullImage(f.ctx, &rt.ImageSpec{Image: f.Image}, nil, nil); err != nil {
				t.Fatalf("pull %s: %v", f.Image, err)
			}
			test(t, f)
		})
	}
}

type fixture struct {
	Subject
	t       *testing.T
	ctx     context.Context
	changed chan struct{}
	events  chan *rt.ContainerEventResponse
}

func (f *fixture) watch() {
	f.events = make(chan *rt.ContainerEventResponse, 100)
	ctx, cancel := context.WithCancel(f.ctx)
	ready, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		err := f.Runtime.Events(ctx, func() { close(ready) }, func(e *rt.ContainerEventResponse) { f.events <- e })
		if err != nil {
			f.t.Errorf("events: %v", err)
		}
	}()
	<-ready
	f.t.Cleanup(func() { cancel(); <-done })
}

// await reads events until one of the type comes for the container, and returns its status in it.
func (f *fixture) await(id string, what rt.ContainerEventType) *rt.ContainerStatus {
	f.t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case e := <-f.events:
			if e.ContainerId != id || e.ContainerEventType != what {
				continue
			}
			for _, s := range e.ContainersStatuses {
				if s.Id == id {
					return s
				}
			}
			return nil
		case <-timeout:
			f.t.Fatalf("no %s for %s", what, id)
		}
	}
}

func (f *fixture) pod(name string) (string, *rt.PodSandboxConfig) {
	f.t.Helper()
	config := &rt.PodSandboxConfig{
		Metadata:     &rt.PodSandboxMetadata{Name: name, Namespace: "critest", Uid: fmt.Sprintf("%s-%d", name, time.Now().UnixNano())},
		Labels:       map[string]string{"pod": name},
		LogDirectory: filepath.Join(f.t.TempDir(), "logs"),
		Linux:        &rt.LinuxPodSandboxConfig{CgroupParent: cgroupRoot + "/" + name, SecurityContext: &rt.LinuxSandboxSecurityContext{NamespaceOptions: &rt.NamespaceOption{}}},
	}
	if err := os.MkdirAll(config.LogDirectory, 0o755); err != nil {
		f.t.Fatal(err)
	}
	id, err := f.Runtime.RunPodSandbox(f.ctx, config, "")
	if err != nil {
		f.t.Fatalf("run sandbox: %v", err)
	}
	f.t.Cleanup(func() {
		ctx := context.WithoutCancel(f.ctx)
		if err := f.Runtime.StopPodSandbox(ctx, id); err != nil {
			f.t.Errorf("stop sandbox: %v", err)
		}
		if err := f.Runtime.RemovePodSandbox(ctx, id); err != nil {
			f.t.Errorf("remove sandbox: %v", err)
		}
	})
	return id, config
}

func (f *fixture) create(sandbox string, config *rt.PodSandboxConfig, name string, args ...string) string {
	f.t.Helper()
	id, err := f.Runtime.CreateContainer(f.ctx, sandbox, &rt.ContainerConfig{
		Metadata: &rt.ContainerMetadata{Name: name}, Image: &rt.ImageSpec{Image: f.Image}, Command: append([]string{"/app"}, args...),
		Labels: map[string]string{"name": name}, LogPath: name + ".log",
		Linux: &rt.LinuxContainerConfig{SecurityContext: &rt.LinuxContainerSecurityContext{NamespaceOptions: &rt.NamespaceOption{}}},
	}, config)
	if err != nil {
		f.t.Fatalf("create %s: %v", name, err)
	}
	return id
}

func (f *fixture) start(sandbox string, config *rt.PodSandboxConfig, name string, args ...string) string {
	f.t.Helper()
	id := f.create(sandbox, config, name, args...)
	if err := f.Runtime.StartContainer(f.ctx, id); err != nil {
		f.t.Fatalf("start %s: %v", name, err)
	}
	return id
}

func (f *fixture) status(id string) *rt.ContainerStatus {
	f.t.Helper()
	s, err := f.Runtime.ContainerStatus(f.ctx, id)
	if err != nil {
		f.t.Fatalf("status: %v", err)
	}
	return s
}

func testLife(t *testing.T, f *fixture) {
	sandbox, config := f.pod("life")
	s, err := f.Runtime.PodSandboxStatus(f.ctx, sandbox)
	if err != nil || s.State != rt.PodSandboxState_SANDBOX_READY || s.GetNetwork().GetIp() == "" || s.Metadata.Name != "life" {
		t.Fatalf("sandbox status %v, %v", s, err)
	}
	id := f.create(sandbox, config, "main", "run")
	if got := f.status(id); got.State != rt.ContainerState_CONTAINER_CREATED || got.CreatedAt == 0 || got.StartedAt != 0 {
		t.Errorf("created: %v", got)
	}
	if err := f.Runtime.StartContainer(f.ctx, id); err != nil {
		t.Fatal(err)
	}
	got := f.status(id)
	if got.State != rt.ContainerState_CONTAINER_RUNNING || got.StartedAt == 0 || got.ImageRef == "" || got.Labels["name"] != "main" {
		t.Errorf("started: %v", got)
	}
	if err := f.Runtime.StartContainer(f.ctx, id); err == nil {
		t.Error("a running container was started again")
	}
	if err := f.Runtime.StopContainer(f.ctx, id, 20*time.Second); err != nil {
		t.Fatal(err)
	}
	got = f.status(id)
	if got.State != rt.ContainerState_CONTAINER_EXITED || got.ExitCode != 143 || got.Reason != "Error" || got.FinishedAt < got.StartedAt {
		t.Errorf("stopped: %v", got)
	}
	if err := f.Runtime.RemoveContainer(f.ctx, id); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Runtime.ContainerStatus(f.ctx, id); !cri.IsNotFound(err) {
		t.Errorf("status of a removed container: %v", err)
	}
}

func testExit(t *testing.T, f *fixture) {
	sandbox, config := f.pod("exit")
	for _, c := range []struct {
		code   string
		want   int32
		reason string
	}{{"0", 0, "Completed"}, {"3", 3, "Error"}} {
		id := f.start(sandbox, config, "exit"+c.code, "exit", c.code)
		f.await(id, rt.ContainerEventType_CONTAINER_STOPPED_EVENT)
		if got := f.status(id); got.ExitCode != c.want || got.Reason != c.reason || got.State != rt.ContainerState_CONTAINER_EXITED {
			t.Errorf("exit %s: %v", c.code, got)
		}
	}
}

func testGrace(t *testing.T, f *fixture) {
	sandbox, config := f.pod("grace")
	id := f.start(sandbox, config, "stubborn", "stubborn")
	began := time.Now()
	if err := f.Runtime.StopContainer(f.ctx, id, time.Second); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < time.Second {
		t.Errorf("killed after %v, before its grace of 1s", took)
	}
	if got := f.status(id); got.ExitCode != 137 {
		t.Errorf("exit code %d, want 137", got.ExitCode)
	}
	now := f.start(sandbox, config, "now", "stubborn")
	if err := f.Runtime.StopContainer(f.ctx, now, 0); err != nil {
		t.Fatal(err)
	}
	if got := f.status(now); got.State != rt.ContainerState_CONTAINER_EXITED {
		t.Errorf("still %v after a stop without grace", got.State)
	}
}

func testEvents(t *testing.T, f *fixture) {
	sandbox, config := f.pod("events")
	f.await(sandbox, rt.ContainerEventType_CONTAINER_STARTED_EVENT)
	id := f.create(sandbox, config, "main", "run")
	f.await(id, rt.ContainerEventType_CONTAINER_CREATED_EVENT)
	if err := f.Runtime.StartContainer(f.ctx, id); err != nil {
		t.Fatal(err)
	}
	f.await(id, rt.ContainerEventType_CONTAINER_STARTED_EVENT)
	if err := f.Runtime.StopContainer(f.ctx, id, 20*time.Second); err != nil {
		t.Fatal(err)
	}
	if s := f.await(id, rt.ContainerEventType_CONTAINER_STOPPED_EVENT); s.GetState() != rt.ContainerState_CONTAINER_EXITED || s.GetExitCode() != 143 {
		t.Errorf("the event of the end carries %v", s)
	}
	if err := f.Runtime.RemoveContainer(f.ctx, id); err != nil {
		t.Fatal(err)
	}
	f.await(id, rt.ContainerEventType_CONTAINER_DELETED_EVENT)
}

func testGone(t *testing.T, f *fixture) {
	gone := strings.Repeat("0", 63) + "f"
	for what, err := range map[string]error{
		"stop container":   f.Runtime.StopContainer(f.ctx, gone, time.Second),
		"remove container": f.Runtime.RemoveContainer(f.ctx, gone),
		"stop sandbox":     f.Runtime.StopPodSandbox(f.ctx, gone),
		"remove sandbox":   f.Runtime.RemovePodSandbox(f.ctx, gone),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := f.Runtime.PodSandboxStatus(f.ctx, gone); !cri.IsNotFound(err) {
		t.Errorf("sandbox status: %v", err)
	}
	if err := f.Runtime.StartContainer(f.ctx, gone); err == nil {
		t.Error("start: no error")
	}
}

func testFilters(t *testing.T, f *fixture) {
	one, config := f.pod("one")
	f.pod("two")
	pods, err := f.Runtime.ListPodSandbox(f.ctx, &rt.PodSandboxFilter{LabelSelector: map[string]string{"pod": "one"}})
	if err != nil || len(pods) != 1 || pods[0].Id != one || pods[0].Labels["pod"] != "one" {
		t.Errorf("sandboxes by label: %v, %v", pods, err)
	}
	a := f.start(one, config, "a", "run")
	f.create(one, config, "b", "run")
	all, err := f.Runtime.ListContainers(f.ctx, &rt.ContainerFilter{PodSandboxId: one})
	if err != nil || len(all) != 2 {
		t.Errorf("containers of the sandbox: %v, %v", all, err)
	}
	running, err := f.Runtime.ListContainers(f.ctx, &rt.ContainerFilter{PodSandboxId: one,
		State: &rt.ContainerStateValue{State: rt.ContainerState_CONTAINER_RUNNING}})
	if err != nil || len(running) != 1 || running[0].Id != a || running[0].PodSandboxId != one {
		t.Errorf("running containers: %v, %v", running, err)
	}
}

func testLogs(t *testing.T, f *fixture) {
	sandbox, config := f.pod("logs")
	id := f.start(sandbox, config, "talk", "say", "1s", "0", "one line") // its end says that it has spoken
	path := f.status(id).LogPath
	if path != filepath.Join(config.LogDirectory, "talk.log") {
		t.Errorf("log path %q", path)
	}
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	if err := f.Runtime.ReopenContainerLog(f.ctx, id); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("after reopening: %v", err)
	}
	f.await(id, rt.ContainerEventType_CONTAINER_STOPPED_EVENT)
	var text []byte
	for _, name := range []string{path + ".old", path} {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, data...)
	}
	if !strings.HasSuffix(string(text), " stdout F one line\n") {
		t.Errorf("log %q", text)
	}
}

func testExec(t *testing.T, f *fixture) {
	sandbox, config := f.pod("exec")
	id := f.start(sandbox, config, "main", "run")
	for _, c := range []struct {
		cmd  []string
		code int32
	}{{[]string{"/app", "exit", "0"}, 0}, {[]string{"/app", "exit", "7"}, 7}} {
		got, err := f.Runtime.ExecSync(f.ctx, id, c.cmd, 20*time.Second)
		if err != nil || got.ExitCode != c.code {
			t.Errorf("%v: %v, %v", c.cmd, got, err)
		}
	}
	if _, err := f.Runtime.ExecSync(f.ctx, id, []string{"/app", "stubborn"}, time.Second); !cri.IsDeadline(err) {
		t.Errorf("a command over its time: %v", err)
	}
}

func testImages(t *testing.T, f *fixture) {
	image, err := f.Runtime.ImageStatus(f.ctx, &rt.ImageSpec{Image: f.Image})
	if err != nil || image == nil || image.Id == "" || len(image.RepoTags) == 0 {
		t.Fatalf("image status %v, %v", image, err)
	}
	if missing, err := f.Runtime.ImageStatus(f.ctx, &rt.ImageSpec{Image: f.Missing}); err != nil || missing != nil {
		t.Errorf("a missing image: %v, %v", missing, err)
	}
	if _, err := f.Runtime.PullImage(f.ctx, &rt.ImageSpec{Image: f.Missing}, nil, nil); err == nil {
		t.Error("a missing image was pulled")
	}
	images, err := f.Runtime.ListImages(f.ctx)
	if err != nil || len(images) == 0 {
		t.Errorf("list: %v, %v", images, err)
	}
	if err := f.Runtime.RemoveImage(f.ctx, &rt.ImageSpec{Image: image.Id}); err != nil {
		t.Fatal(err)
	}
	if left, err := f.Runtime.ImageStatus(f.ctx, &rt.ImageSpec{Image: f.Image}); err != nil || left != nil {
		t.Errorf("after removal: %v, %v", left, err)
	}
	if err := f.Runtime.RemoveImage(f.ctx, &rt.ImageSpec{Image: image.Id}); err != nil {
		t.Errorf("second removal: %v", err)
	}
	if info, err := f.Runtime.ImageFsInfo(f.ctx); err != nil || len(info.ImageFilesystems) == 0 {
		t.Errorf("file system: %v, %v", info, err)
	}
}

func testResources(t *testing.T, f *fixture) {
	sandbox, config := f.pod("resources")
	id := f.start(sandbox, config, "main", "run")
	want := &rt.LinuxContainerResources{CpuShares: 512, CpuQuota: 50000, CpuPeriod: 100000, MemoryLimitInBytes: 64 << 20}
	if err := f.Runtime.UpdateContainerResources(f.ctx, id, want); err != nil {
		t.Fatal(err)
	}
	got := f.status(id).GetResources().GetLinux()
	if got.GetCpuShares() != 512 || got.GetCpuQuota() != 50000 || got.GetMemoryLimitInBytes() != 64<<20 {
		t.Errorf("resources %v", got)
	}
	stats, err := f.Runtime.ContainerStats(f.ctx, id)
	if err != nil || stats.GetMemory().GetWorkingSetBytes().GetValue() == 0 {
		t.Errorf("stats %v, %v", stats, err)
	}
	list, err := f.Runtime.ListContainerStats(f.ctx, &rt.ContainerStatsFilter{PodSandboxId: sandbox})
	if err != nil || len(list) != 1 {
		t.Errorf("stats of the sandbox's containers: %v, %v", list, err)
	}
	pod, err := f.Runtime.PodSandboxStats(f.ctx, sandbox)
	if err != nil || len(pod.GetLinux().GetContainers()) != 1 {
		t.Errorf("stats of the sandbox: %v, %v", pod, err)
	}
}

func testStoppedSandbox(t *testing.T, f *fixture) {
	sandbox, config := f.pod("stopped")
	id := f.start(sandbox, config, "main", "run")
	if err := f.Runtime.StopPodSandbox(f.ctx, sandbox); err != nil {
		t.Fatal(err)
	}
	if got := f.status(id); got.State != rt.ContainerState_CONTAINER_EXITED {
		t.Errorf("container is %v after its sandbox stopped", got.State)
	}
	if s, err := f.Runtime.PodSandboxStatus(f.ctx, sandbox); err != nil || s.State != rt.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("sandbox %v, %v", s, err)
	}
	if _, err := f.Runtime.CreateContainer(f.ctx, sandbox, &rt.ContainerConfig{
		Metadata: &rt.ContainerMetadata{Name: "late"}, Image: &rt.ImageSpec{Image: f.Image}, Linux: &rt.LinuxContainerConfig{},
	}, config); err == nil {
		t.Error("a container was created in a stopped sandbox")
	}
}

func testHost(t *testing.T, f *fixture) {
	if v, err := f.Runtime.Version(f.ctx); err != nil || v.RuntimeName == "" || v.RuntimeVersion == "" {
		t.Errorf("version %v, %v", v, err)
	}
	s, err := f.Runtime.Status(f.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range s.GetStatus().GetConditions() {
		if (c.Type == "RuntimeReady" || c.Type == "NetworkReady") && !c.Status {
			t.Errorf("%v", c)
		}
	}
}
