package lifecycle

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// at is a moment some seconds after the epoch.
func at(seconds float64) time.Time { return epoch.Add(time.Duration(seconds * float64(time.Second))) }

// parsePod reads "policy=Never init=a,b sidecar=p main=c,d": containers by kind, in order.
func parsePod(text string) *corev1.Pod {
	grace := int64(30)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", Generation: 1},
		Spec:       corev1.PodSpec{RestartPolicy: corev1.RestartPolicyAlways, TerminationGracePeriodSeconds: &grace},
	}
	always := corev1.ContainerRestartPolicyAlways
	for _, field := range strings.Fields(text) {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "policy":
			pod.Spec.RestartPolicy = corev1.RestartPolicy(value)
		case "deadline":
			limit := resource.MustParse(value)
			n := limit.Value()
			pod.Spec.ActiveDeadlineSeconds = &n
		case "deleted":
			limit := resource.MustParse(value)
			n := limit.Value()
			now := metav1.NewTime(at(0))
			pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &now, &n
		case "phase":
			pod.Status.Phase = corev1.PodPhase(value)
		case "init", "sidecar", "main", "hooked":
			for name := range strings.SplitSeq(value, ",") {
				c := corev1.Container{Name: name, Image: "img"}
				switch key {
				case "main":
					pod.Spec.Containers = append(pod.Spec.Containers, c)
				case "hooked":
					c.Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{}}
					pod.Spec.Containers = append(pod.Spec.Containers, c)
				case "sidecar":
					c.RestartPolicy = &always
					fallthrough
				case "init":
					pod.Spec.InitContainers = append(pod.Spec.InitContainers, c)
				}
			}
		}
	}
	return pod
}

// parseState reads what is observed: "sandbox" (ready), "dead" (a sandbox that is not), "volumes", "images" (all there), "clean",
// "finished", "gone", "busy:KEY", and containers as name=running, name=exited:CODE, name=starting (its hook runs), each with
// optional @seconds (start or end) and +attempt, and name~text for a container that is unhealthy.
func parseState(pod *corev1.Pod, text string) *State {
	s := NewState()
	s.StartTime = at(0)
	for _, field := range strings.Fields(text) {
		switch field {
		case "sandbox":
			s.Sandboxes = append([]Sandbox{{ID: "s1", Ready: true, Attempt: uint32(len(s.Sandboxes))}}, s.Sandboxes...)
			continue
		case "dead":
			s.Sandboxes = append([]Sandbox{{ID: "s0"}}, s.Sandboxes...)
			continue
		case "volumes":
			s.Volumes = true
			continue
		case "images":
			for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
				for _, c := range list {
					s.Images[c.Name] = "ref"
				}
			}
			continue
		case "clean":
			s.Clean = true
			continue
		case "finished":
			s.Finished = true
			continue
		case "gone":
			s.Gone = true
			continue
		}
		if key, ok := strings.CutPrefix(field, "busy:"); ok {
			s.Busy[key] = true
			continue
		}
		if name, why, ok := strings.Cut(field, "~"); ok {
			s.Latest(name).Unhealthy = why
			continue
		}
		name, rest, _ := strings.Cut(field, "=")
		what, plus, _ := strings.Cut(rest, "+")
		what, when, _ := strings.Cut(what, "@")
		var seconds float64
		_, _ = fmt.Sscan(when, &seconds)
		c := &Container{ID: name + "-id", Name: name, Sandbox: "s1", CreatedAt: at(0), StartedAt: at(0), Phase: Running, Started: true, Ready: true, ImageRef: "img@sha256:1"}
		if len(s.Sandboxes) > 0 {
			c.Sandbox = s.Sandboxes[0].ID
		}
		_, _ = fmt.Sscan(plus, &c.Attempt)
		kind, code, _ := strings.Cut(what, ":")
		switch kind {
		case "exited":
			c.Phase, c.FinishedAt, c.Started, c.Ready, c.Reason = Exited, at(seconds), false, false, "Completed"
			_, _ = fmt.Sscan(code, &c.ExitCode)
			if c.ExitCode != 0 {
				c.Reason = "Error"
			}
		case "starting":
			c.PostStart = true
		case "unready":
			c.Ready = false
		}
		s.Containers[name] = append([]*Container{c}, s.Containers[name]...)
	}
	return s
}

// spell writes a plan in one line.
func spell(p Plan) string {
	var out []string
	for _, a := range p.Actions {
		s := string(a.Verb)
		if a.Container != "" {
			s += " " + a.Container
		}
		switch a.Verb {
		case StartContainer, RunSandbox:
			s += fmt.Sprintf("+%d", a.Attempt)
		case StopContainer:
			s += fmt.Sprintf("@%v", a.Deadline.Sub(epoch).Seconds())
		case HoldBack:
			s += " " + a.Reason
		}
		out = append(out, s)
	}
	slices.Sort(out)
	text := strings.Join(out, ", ")
	if !p.Wake.IsZero() {
		text += fmt.Sprintf("; wake %v", p.Wake.Sub(epoch).Seconds())
	}
	if p.Verdict != nil {
		text += "; " + p.Verdict.Reason
	}
	return text
}

func TestNext(t *testing.T) {
	for _, test := range []struct {
		name, pod, state string
		now              float64
		want             string
	}{
		{"everything begins at once", "main=a,b", "", 0, "mount volumes, pull image a, pull image b, run sandbox+0"},
		{"nothing twice", "main=a", "busy:volumes busy:sandbox busy:image/a", 0, ""},
		{"a container waits for volumes", "main=a", "sandbox images busy:volumes", 0, ""},
		{"a container waits for its sandbox", "main=a", "volumes images busy:sandbox", 0, ""},
		{"all containers start together", "main=a,b", "sandbox volumes images", 0, "start container a+0, start container b+0"},
		{"a hook holds the next one up", "hooked=a main=b", "sandbox volumes images", 0, "start container a+0"},
		{"until it has run", "hooked=a main=b", "sandbox volumes images a=running", 0, "start container b+0"},
		{"nothing to do", "main=a", "sandbox volumes a=running", 0, ""},
		{"adopted volumes are looked at", "main=a", "sandbox a=running", 0, "mount volumes"},

		{"init containers come one by one", "init=i,j main=a", "sandbox volumes images", 0, "start container i+0"},
		{"the second after the first", "init=i,j main=a", "sandbox volumes images i=exited:0", 0, "start container j+0"},
		{"a running one is awaited", "init=i,j main=a", "sandbox volumes images i=running", 0, ""},
		{"then the others", "init=i main=a", "sandbox volumes images i=exited:0", 0, "start container a+0"},
		{"a failed one again", "init=i main=a", "sandbox volumes images i=exited:1", 0, "start container i+1"},
		{"or not", "policy=Never init=i main=a", "sandbox volumes images i=exited:1", 0, "clean"},
		{"an init container is not run again beside its pod", "init=i main=a", "sandbox volumes images i=exited:0 a=running", 0, ""},

		{"a sidecar starts first", "sidecar=p main=a", "sandbox volumes images", 0, "start container p+0"},
		{"and is enough when started", "sidecar=p main=a", "sandbox volumes images p=running", 0, "start container a+0"},
		{"its hook is awaited", "sidecar=p main=a", "sandbox volumes images p=starting", 0, ""},
		{"it is restarted beside the pod", "policy=Never sidecar=p main=a", "sandbox volumes images p=exited:0 a=running", 0, "start container p+1"},
		{"it ends last", "policy=Never sidecar=p main=a", "sandbox volumes p=running a=exited:0", 0, "stop container p@30"},
		{"in reverse order", "sidecar=p,q main=a deleted=10", "sandbox volumes p=running q=running a=exited:0", 0, "stop container q@10"},

		{"restart", "main=a", "sandbox volumes images a=exited:1@5", 6, "start container a+1"},
		{"never", "policy=Never main=a", "sandbox volumes images a=exited:1", 6, "clean"},
		{"on failure only", "policy=OnFailure main=a,b", "sandbox volumes images a=exited:0 b=running", 6, ""},
		{"unhealthy", "main=a", "sandbox volumes a=running a~sick", 6, "stop container a@36"},

		{"a dead sandbox is replaced", "main=a", "dead volumes images a=exited:137", 6, "run sandbox+1"},
		{"what runs in it goes first", "main=a", "dead volumes images a=running", 6, "stop container a@8"},
		{"init again in the new one", "init=i main=a", "dead i=exited:0 a=exited:137 sandbox volumes images", 6, "start container i+1"},

		{"over its deadline", "deadline=60 main=a", "sandbox volumes a=running", 60, "stop container a@90; DeadlineExceeded"},
		{"before it", "deadline=60 main=a", "sandbox volumes a=running", 59, "; wake 60"},

		{"deleted", "main=a,b deleted=10", "sandbox volumes a=running b=exited:0", 1, "stop container a@11"},
		{"what is being made is awaited", "main=a deleted=10", "busy:sandbox", 1, ""},
		{"then it is cleaned", "main=a deleted=10", "sandbox a=exited:0", 1, "clean"},
		{"then deleted", "main=a deleted=10", "clean a=exited:0", 1, "finish"},
		{"once", "main=a deleted=10", "clean finished a=exited:0", 1, ""},
		{"then forgotten", "main=a deleted=10", "clean finished gone a=exited:0", 1, "forget"},
		{"gone without a word", "main=a", "gone sandbox a=running", 1, "stop container a@31"},
		{"an ended phase is never left", "main=a phase=Failed", "", 1, "clean"},

		{"old records go", "main=a", "sandbox volumes a=exited:1+0 a=exited:1+1 a=running+2 a=running+3", 1, "remove container a"},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod := parsePod(test.pod)
			if got := spell(Next(pod, parseState(pod, test.state), at(test.now))); got != test.want {
				t.Errorf("%s\nwant %s", got, test.want)
			}
		})
	}
}

func TestBackoff(t *testing.T) {
	pod := parsePod("main=a")
	s := parseState(pod, "sandbox volumes images a=exited:1@100")
	s.Backoff["a"] = Backoff{Delay: 20 * time.Second, Since: at(90)}
	plan := Next(pod, s, at(110))
	if got := spell(plan); got != "hold back a CrashLoopBackOff; wake 120" || plan.Actions[0].Message != "back-off 20s restarting failed container=a pod=p_ns(u)" {
		t.Errorf("%s %+v", got, plan.Actions)
	}
	s.Waiting["a"] = &Failure{Reason: "CrashLoopBackOff", Retry: at(120)}
	if got := spell(Next(pod, s, at(110))); got != "; wake 120" {
		t.Errorf("held back again: %s", got)
	}
	plan = Next(pod, s, at(120))
	if got := spell(plan); got != "start container a+1" || plan.Actions[0].Backoff.Delay != 40*time.Second {
		t.Errorf("%s %+v", got, plan.Actions)
	}
	for d, want := 0*time.Second, []time.Duration{10, 20, 40, 80, 160, 300, 300}; len(want) > 0; want = want[1:] {
		if d = (Backoff{d, at(0)}).Next(at(1)).Delay; d != want[0]*time.Second {
			t.Errorf("%v, want %vs", d, int(want[0]))
		}
	}
	if d := (Backoff{5 * time.Minute, at(0)}).Next(at(601)).Delay; d != 10*time.Second {
		t.Errorf("after ten good minutes: %v", d)
	}
}

func TestShorterGrace(t *testing.T) {
	pod := parsePod("main=a deleted=2")
	s := parseState(pod, "sandbox volumes a=running")
	s.Kill = &Kill{Deadline: at(30), Grace: 30}
	s.Latest("a").Stopping = at(30)
	if got := spell(Next(pod, s, at(5))); got != "stop container a@7" {
		t.Error(got)
	}
	s.Kill, s.Latest("a").Stopping = &Kill{Deadline: at(7), Grace: 2}, at(7)
	if got := spell(Next(pod, s, at(6))); got != "" {
		t.Errorf("stopped again: %s", got)
	}
}

func TestRestartRules(t *testing.T) {
	never := corev1.ContainerRestartPolicyNever
	rule := func(action corev1.ContainerRestartRuleAction, op corev1.ContainerRestartRuleOnExitCodesOperator, codes ...int32) corev1.ContainerRestartRule {
		return corev1.ContainerRestartRule{Action: action, ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: op, Values: codes}}
	}
	pod := parsePod("policy=Always main=a,b")
	pod.Spec.Containers[0].RestartPolicy = &never
	pod.Spec.Containers[0].RestartPolicyRules = []corev1.ContainerRestartRule{
		rule(corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleOnExitCodesOpIn, 42),
		rule(corev1.ContainerRestartRuleActionRestartAllContainers, corev1.ContainerRestartRuleOnExitCodesOpIn, 88),
	}
	for state, want := range map[string]string{
		"a=exited:42 b=running":  "start container a+1",
		"a=exited:1 b=running":   "",
		"a=exited:88 b=running":  "stop container b@31",
		"a=exited:88 b=exited:0": "; wake 1",
	} {
		if got := spell(Next(pod, parseState(pod, "sandbox volumes images "+state), at(1))); got != want {
			t.Errorf("%s: %s, want %s", state, got, want)
		}
	}
	s := parseState(pod, "sandbox volumes images a=exited:88 b=exited:0")
	s.Epoch = Next(pod, s, at(1)).Epoch
	if got := spell(Next(pod, s, at(2))); got != "start container a+1, start container b+1" {
		t.Errorf("the new run: %s", got)
	}
}

func TestStatus(t *testing.T) {
	host := Host{IPs: []string{"192.0.2.1"}, Runtime: "containerd"}
	for _, test := range []struct{ pod, state, want string }{
		{"main=a", "", "Pending [Initialized PodScheduled] a=ContainerCreating"},
		{"init=i main=a", "sandbox i=running", "Pending [PodReadyToStartContainers PodScheduled] i=running a=PodInitializing"},
		{"init=i main=a", "sandbox i=exited:0", "Pending [PodReadyToStartContainers Initialized PodScheduled] i=Completed(0)+ready a=PodInitializing"},
		{"main=a,b", "sandbox a=running b=unready", "Running [PodReadyToStartContainers Initialized PodScheduled] a=running+ready b=running"},
		{"main=a,b", "sandbox a=running b=running", "Running [PodReadyToStartContainers Initialized Ready ContainersReady PodScheduled] a=running+ready b=running+ready"},
		{"main=a", "sandbox a=starting", "Pending [PodReadyToStartContainers Initialized PodScheduled] a=ContainerCreating"},
		{"main=a", "sandbox a=exited:1", "Running [PodReadyToStartContainers Initialized PodScheduled] a=Error(1)"},
		{"policy=Never main=a,b", "clean dead a=exited:0 b=exited:0", "Succeeded [Initialized PodScheduled] a=Completed(0) b=Completed(0)"},
		{"policy=Never main=a,b", "clean dead a=exited:0 b=exited:1", "Failed [Initialized PodScheduled] a=Completed(0) b=Error(1)"},
		{"policy=Never init=i main=a", "clean dead i=exited:1", "Failed [PodScheduled] i=Error(1) a=PodInitializing"},
		{"sidecar=p main=a", "sandbox p=running a=running", "Running [PodReadyToStartContainers Initialized Ready ContainersReady PodScheduled] p=running+ready a=running+ready"},
		{"sidecar=p main=a", "sandbox p=unready a=running", "Running [PodReadyToStartContainers Initialized PodScheduled] p=running a=running+ready"},
		{"main=a phase=Failed", "", "Failed [Initialized PodScheduled] a=ContainerCreating"},
	} {
		pod := parsePod(test.pod)
		st := Status(pod, parseState(pod, test.state), host, at(100))
		var conditions []string
		for _, c := range st.Conditions {
			if c.Status == corev1.ConditionTrue {
				conditions = append(conditions, string(c.Type))
			}
			if c.ObservedGeneration != 1 {
				t.Errorf("%s: generation %d", c.Type, c.ObservedGeneration)
			}
		}
		got := fmt.Sprintf("%s %v", st.Phase, conditions)
		for _, c := range append(st.InitContainerStatuses, st.ContainerStatuses...) {
			state := "running"
			switch {
			case c.State.Waiting != nil:
				state = c.State.Waiting.Reason
			case c.State.Terminated != nil:
				state = fmt.Sprintf("%s(%d)", c.State.Terminated.Reason, c.State.Terminated.ExitCode)
			}
			got += " " + c.Name + "=" + state
			if c.Ready {
				got += "+ready"
			}
		}
		if got != test.want {
			t.Errorf("%s | %s:\n%s\nwant %s", test.pod, test.state, got, test.want)
		}
		// What was reported must be found again, or every look would write.
		pod.Status = st
		if again := Status(pod, parseState(pod, test.state), host, at(200)); !equality.Semantic.DeepEqual(again, st) {
			t.Errorf("%s | %s: the second report differs:\n%v\n%v", test.pod, test.state, st, again)
		}
	}
}

func TestStatusKeepsWhatIsOthers(t *testing.T) {
	pod := parsePod("main=a")
	pod.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "example.com/gate"}}
	pod.Status.Conditions = []corev1.PodCondition{
		{Type: "example.com/gate", Status: corev1.ConditionFalse, Reason: "Theirs"},
		{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue},
		{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(at(-5))},
	}
	s := parseState(pod, "sandbox a=running")
	st := Status(pod, s, Host{}, at(1))
	if c := have(st.Conditions, "example.com/gate"); c == nil || c.Reason != "Theirs" {
		t.Errorf("gate %+v", c)
	}
	if c := have(st.Conditions, corev1.DisruptionTarget); c == nil {
		t.Error("the disruption target is lost")
	}
	if c := have(st.Conditions, corev1.PodScheduled); !c.LastTransitionTime.Time.Equal(at(-5)) {
		t.Errorf("scheduled %+v", c)
	}
	ready := have(st.Conditions, corev1.PodReady)
	if ready.Reason != "ReadinessGatesNotReady" || ready.Message != `the status of pod readiness gate "example.com/gate" is not "True", but False` {
		t.Errorf("ready %+v", ready)
	}
	pod.Status.Conditions[0].Status = corev1.ConditionTrue
	if st = Status(pod, s, Host{}, at(1)); have(st.Conditions, corev1.PodReady).Status != corev1.ConditionTrue {
		t.Error("an open gate holds the pod back")
	}
}
