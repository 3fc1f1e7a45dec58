package auth

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kebernetes/kebernetes/store"
)

// readerRole is what the recorded dialogues of access reviews use: configmaps and pods/log, one deployment.
func readerRole() []store.Object {
	return []store.Object{
		&rbacv1.Role{ObjectMeta: meta("ns", "reader"), Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"configmaps", "pods/log"}, Verbs: []string{"get", "list"}},
			{APIGroups: []string{"apps"}, Resources: []string{"deployments"}, ResourceNames: []string{"web"}, Verbs: []string{"update", "patch"}},
		}},
		&rbacv1.RoleBinding{ObjectMeta: meta("ns", "b"), RoleRef: roleRef("Role", "reader"), Subjects: []rbacv1.Subject{
			{Kind: "User", Name: "ann"}, {Kind: "Group", Name: "team"}, {Kind: "ServiceAccount", Name: "sa"},
		}},
	}
}

func TestAuthorize(t *testing.T) {
	w := newWorld(t, append(bootstrapObjects(), readerRole()...)...)
	w.put(&rbacv1.ClusterRoleBinding{ObjectMeta: meta("", "lost"), RoleRef: roleRef("ClusterRole", "none"), Subjects: []rbacv1.Subject{{Kind: "User", Name: "lost"}}})
	ann, team := &User{Name: "ann"}, &User{Name: "x", Groups: []string{"team"}}
	anyone := &User{Name: "x", Groups: []string{GroupAuthenticated}}
	anonymous := &User{Name: Anonymous, Groups: []string{GroupUnauthenticated}}
	admin := &User{Name: "admin", Groups: []string{GroupMasters, GroupAuthenticated}}
	sa := &User{Name: "system:serviceaccount:ns:sa"}
	const byAnn = `RBAC: allowed by RoleBinding "b/ns" of Role "reader" to User "ann"`
	for _, tc := range []struct {
		user     *User
		question string
		allowed  bool
		reason   string
	}{
		{ann, "get configmaps ns", true, byAnn},
		{ann, "get configmaps ns/q", true, byAnn},
		{ann, "delete configmaps ns", false, ""},
		{ann, "get configmaps default", false, ""},
		{ann, "list configmaps", false, ""},
		{ann, "get pods/log ns", true, byAnn},
		{ann, "get pods ns", false, ""},
		{ann, "patch deployments.apps ns/web", true, byAnn},
		{ann, "patch deployments.apps ns/other", false, ""},
		{ann, "get configmaps.apps ns", false, ""},
		{team, "list configmaps ns/q", true, `RBAC: allowed by RoleBinding "b/ns" of Role "reader" to Group "team"`},
		{sa, "list configmaps ns", true, `RBAC: allowed by RoleBinding "b/ns" of Role "reader" to ServiceAccount "sa/"`},
		{anyone, "create selfsubjectreviews.authentication.k8s.io", true,
			`RBAC: allowed by ClusterRoleBinding "system:basic-user" of ClusterRole "system:basic-user" to Group "system:authenticated"`},
		{anyone, "get /openapi/v3/apis/apps/v1", true,
			`RBAC: allowed by ClusterRoleBinding "system:discovery" of ClusterRole "system:discovery" to Group "system:authenticated"`},
		{anonymous, "get /healthz", true,
			`RBAC: allowed by ClusterRoleBinding "system:public-info-viewer" of ClusterRole "system:public-info-viewer" to Group "system:unauthenticated"`},
		{anonymous, "get /metrics", false, ""},
		{admin, "delete nodes", true, ""},
		{admin, "get /metrics", true, ""},
		{&User{Name: "lost"}, "get pods", false, `RBAC: clusterrole.rbac.authorization.k8s.io "none" not found`},
		{Controller("deployment-controller"), "create replicasets.apps ns", true,
			`RBAC: allowed by ClusterRoleBinding "system:controller:deployment-controller" of ClusterRole "system:controller:deployment-controller" to ServiceAccount "deployment-controller/kube-system"`},
		{Controller("deployment-controller"), "create secrets ns", false, ""},
		{&User{Name: "system:kube-scheduler"}, "create pods/binding ns", true,
			`RBAC: allowed by ClusterRoleBinding "system:kube-scheduler" of ClusterRole "system:kube-scheduler" to User "system:kube-scheduler"`},
	} {
		allowed, reason := w.policy.Authorize(can(tc.user, tc.question))
		if allowed != tc.allowed || reason != tc.reason {
			t.Errorf("%s: %s: %v %q, want %v %q", tc.user.Name, tc.question, allowed, reason, tc.allowed, tc.reason)
		}
	}
}

func TestAuthorizeSeesEveryChangeAtOnce(t *testing.T) {
	w := newWorld(t)
	role, binding := readerRole()[0], readerRole()[1]
	ask := func(want bool, when string) {
		t.Helper()
		if allowed, _ := w.policy.Authorize(can(&User{Name: "ann"}, "get configmaps ns")); allowed != want {
			t.Errorf("%s: allowed is %v", when, allowed)
		}
	}
	ask(false, "nothing there")
	w.put(binding)
	ask(false, "a binding without its role")
	w.put(role)
	ask(true, "role and binding")
	changed := binding.(*rbacv1.RoleBinding).DeepCopy()
	changed.Subjects = changed.Subjects[1:]
	w.put(changed)
	ask(false, "subject taken out")
	w.put(binding)
	ask(true, "subject put back")
	w.remove(binding)
	ask(false, "binding removed")
}

// TestIndexAgainstNaive compares the index with a plain walk over all bindings while they change at random.
func TestIndexAgainstNaive(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	w := newWorld(t)
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	some := func(of ...string) []string {
		out := []string{pick(of...)}
		for r.IntN(2) == 0 {
			out = append(out, pick(of...))
		}
		return out
	}
	namespaces, names := []string{"a", "b"}, []string{"r1", "r2", "r3"}
	rules := func() []rbacv1.PolicyRule {
		out := []rbacv1.PolicyRule{{Verbs: some("get", "list", "*"), APIGroups: some("", "apps", "*"), Resources: some("pods", "pods/log", "*/scale", "deployments", "*")}}
		if r.IntN(3) == 0 {
			out[0].ResourceNames = some("x", "y")
		}
		if r.IntN(3) == 0 {
			out = append(out, rbacv1.PolicyRule{Verbs: some("get", "*"), NonResourceURLs: some("/api", "/api/*", "*")})
		}
		return out
	}
	subjects := func() []rbacv1.Subject {
		var out []rbacv1.Subject
		for range 1 + r.IntN(3) {
			out = append(out, rbacv1.Subject{Kind: pick("User", "Group", "ServiceAccount"), Name: pick("u1", "u2"), Namespace: ""})
			if out[len(out)-1].Kind == "ServiceAccount" && r.IntN(2) == 0 {
				out[len(out)-1].Namespace = pick(namespaces...)
			}
		}
		return out
	}
	change := func() {
		objects := []store.Object{
			&rbacv1.ClusterRole{ObjectMeta: meta("", pick(names...)), Rules: rules()},
			&rbacv1.Role{ObjectMeta: meta(pick(namespaces...), pick(names...)), Rules: rules()},
			&rbacv1.ClusterRoleBinding{ObjectMeta: meta("", pick("1", "2", "3")), RoleRef: roleRef("ClusterRole", pick(names...)), Subjects: subjects()},
			&rbacv1.RoleBinding{ObjectMeta: meta(pick(namespaces...), pick("1", "2", "3")), RoleRef: roleRef(pick("Role", "ClusterRole"), pick(names...)), Subjects: subjects()},
		}
		o := objects[r.IntN(len(objects))]
		if r.IntN(4) == 0 {
			w.remove(o)
		} else {
			w.put(o)
		}
	}
	users := []*User{{Name: "u1", Groups: []string{"u2"}}, {Name: "u2"}, {Name: "system:serviceaccount:a:u1"}, {Name: "system:serviceaccount:b:u2", Groups: []string{"u1"}}}
	for range 3000 {
		change()
		a := can(users[r.IntN(len(users))], pick("get", "list", "watch")+" "+
			pick("pods", "pods/log", "deployments.apps", "deployments.apps/scale", "/api", "/api/x", "/b")+" "+pick("", "a", "b", "a/x", "b/y"))
		if got, _ := w.policy.Authorize(a); got != naive(w.store.Snapshot(), a) {
			t.Fatalf("index says %v of %+v", got, a)
		}
	}
}

// naive is RBAC as its documentation words it, with no index.
func naive(s store.Snapshot, a *Attributes) bool {
	applies := func(namespace string, subjects []rbacv1.Subject) bool {
		return slices.ContainsFunc(subjects, func(s rbacv1.Subject) bool {
			switch s.Kind {
			case "User":
				return s.Name == a.User.Name
			case "Group":
				return slices.Contains(a.User.Groups, s.Name)
			}
			of := cmp.Or(s.Namespace, namespace)
			return of != "" && a.User.Name == fmt.Sprintf("system:serviceaccount:%s:%s", of, s.Name)
		})
	}
	holds := func(ref rbacv1.RoleRef, namespace string) bool {
		rules, err := roleRules(s, ref.Kind, ref.Name, namespace)
		return err == nil && slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool { return Allows(&r, a) })
	}
	for item := range s.List(resourceClusterRoleBindings, "") {
		if b := item.Object.(*rbacv1.ClusterRoleBinding); applies("", b.Subjects) && holds(b.RoleRef, "") {
			return true
		}
	}
	for item := range s.List(resourceRoleBindings, "") {
		if b := item.Object.(*rbacv1.RoleBinding); b.Namespace == a.Namespace && applies(b.Namespace, b.Subjects) && holds(b.RoleRef, b.Namespace) {
			return true
		}
	}
	return false
}

func TestNodeRule(t *testing.T) {
	p := pod("p", "n1", "sa")
	p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}}
	p.Spec.Containers = []corev1.Container{{EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "env"}}}}}}
	p.Spec.Volumes = []corev1.Volume{
		{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "vol"}}},
		{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claim"}}},
	}
	w := newWorld(t, p, pod("other", "n2", "sa2"),
		&corev1.PersistentVolumeClaim{ObjectMeta: meta("ns", "claim"), Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv"}},
		&corev1.PersistentVolume{ObjectMeta: meta("", "pv"), Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{
			CSI: &corev1.CSIPersistentVolumeSource{NodeStageSecretRef: &corev1.SecretReference{Namespace: "vault", Name: "stage"}}}}})
	n1 := &User{Name: "system:node:n1", Groups: []string{GroupNodes}}
	const unrelated = "node: no relationship found between node 'n1' and this object"
	for question, reason := range map[string]string{
		"list pods * spec.nodeName=n1":                       "",
		"list pods * spec.nodeName=n2":                       "node: can only list/watch pods with spec.nodeName field selector",
		"list pods":                                          "node: can only list/watch pods with spec.nodeName field selector",
		"get pods ns/p":                                      "",
		"get pods ns/other":                                  unrelated,
		"update pods/status ns/p":                            "",
		"get secrets ns/pull":                                "",
		"get secrets ns/vol":                                 "",
		"get secrets vault/stage":                            "",
		"get secrets ns/x":                                   unrelated,
		"get secrets other/vol":                              unrelated,
		"list secrets ns":                                    "node: No Object name found",
		"update secrets ns/vol":                              "node: can only read resources of this type",
		"watch configmaps ns/env":                            "",
		"list configmaps ns":                                 "node: No Object name found",
		"get configmaps ns/vol":                              unrelated,
		"get persistentvolumeclaims ns/claim":                "",
		"get persistentvolumes */pv":                         "",
		"get persistentvolumes */pv2":                        unrelated,
		"create serviceaccounts/token ns/sa":                 "",
		"create serviceaccounts/token ns/sa2":                unrelated,
		"get nodes */n1":                                     "",
		"get nodes */n2":                                     "node: node 'n1' cannot read 'n2', only its own Node object",
		"list nodes * metadata.name=n1":                      "",
		"patch nodes/status */n2":                            "",
		"get leases.coordination.k8s.io kube-node-lease/n1":  "",
		"get leases.coordination.k8s.io kube-node-lease/n2":  "node: can only access node lease with the same name as the requesting node",
		"get leases.coordination.k8s.io kube-system/n1":      `node: can only access leases in the "kube-node-lease" system namespace`,
		"list leases.coordination.k8s.io kube-node-lease/n1": "node: can only get, create, update, patch, or delete a node lease",
		"create events ns":                                   "",
		"list services":                                      "",
		"delete deployments.apps ns/x":                       "-",
	} {
		a := can(n1, question)
		if a.Namespace == "*" {
			a.Namespace = ""
		}
		allowed, got := w.policy.Authorize(a)
		if allowed != (reason == "") || (reason != "-" && got != reason) {
			t.Errorf("%s: %v %q, want %q", question, allowed, got, reason)
		}
	}
	w.remove(p)
	if allowed, _ := w.policy.Authorize(can(n1, "get secrets ns/vol")); allowed {
		t.Error("a secret stays readable after its pod is gone")
	}
	if allowed, _ := w.policy.Authorize(can(&User{Name: "system:node:n2"}, "get pods ns/other")); allowed {
		t.Error("a node outside of system:nodes is taken for one")
	}
}

func TestRules(t *testing.T) {
	w := newWorld(t, append(bootstrapObjects(), readerRole()...)...)
	resource, nonResource, err := w.policy.Rules(&User{Name: "ann", Groups: []string{"team", GroupAuthenticated}}, "ns")
	if err != nil || len(nonResource) != 2 || len(resource) != 4 {
		t.Errorf("%v, %d rules on paths, %d on resources", err, len(nonResource), len(resource))
	}
	if !slices.ContainsFunc(resource, func(r ResourceRule) bool { return slices.Equal(r.ResourceNames, []string{"web"}) }) {
		t.Errorf("the role's rules are not in %v", resource)
	}
	if _, _, err := w.policy.Rules(&User{Name: "system:node:n", Groups: []string{GroupNodes}}, "ns"); err == nil {
		t.Error("the rules of a node are not called incomplete")
	}
}

func TestBootstrapObjects(t *testing.T) {
	counts, seen := map[string]int{}, map[string]bool{}
	for _, o := range BootstrapObjects() {
		kind := fmt.Sprintf("%T", o)
		counts[kind]++
		if key := kind + o.GetNamespace() + "/" + o.GetName(); seen[key] {
			t.Errorf("%s twice", key)
		} else {
			seen[key] = true
		}
		if o.GetLabels()[bootstrapLabel] != "rbac-defaults" || o.GetAnnotations()[AutoUpdate] != "true" {
			t.Errorf("%s lacks its label or annotation", o.GetName())
		}
	}
	want := map[string]int{"*v1.ClusterRole": 73, "*v1.ClusterRoleBinding": 54, "*v1.Role": 7, "*v1.RoleBinding": 7}
	if fmt.Sprint(counts) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", counts, want)
	}
}

func TestAggregatedRules(t *testing.T) {
	var roles []*rbacv1.ClusterRole
	var view *rbacv1.ClusterRole
	for _, o := range BootstrapObjects() {
		if r, ok := o.(*rbacv1.ClusterRole); ok {
			roles = append(roles, r)
			if r.Name == "view" {
				view = r
			}
		}
	}
	roles = append(roles, &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "zz", Labels: map[string]string{"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{"x.io"}, Resources: []string{"toys"}, Verbs: []string{"get"}},
			{APIGroups: []string{""}, Resources: []string{"namespaces"}, Verbs: []string{"get", "list", "watch"}},
		},
	})
	rules := AggregatedRules(view, roles)
	base := bootstrapClusterRole("system:aggregate-to-view")
	if len(rules) != len(base)+1 || rules[len(rules)-1].APIGroups[0] != "x.io" {
		t.Errorf("%d rules, want the %d of system:aggregate-to-view and one more", len(rules), len(base))
	}
}

func BenchmarkAuthorize(b *testing.B) {
	w := newWorld(b, append(bootstrapObjects(), readerRole()...)...)
	for i := range 10000 {
		w.put(&rbacv1.RoleBinding{ObjectMeta: meta(fmt.Sprint("ns", i), "b"), RoleRef: roleRef("ClusterRole", "view"), Subjects: []rbacv1.Subject{{Kind: "User", Name: fmt.Sprint("u", i)}}})
	}
	for name, a := range map[string]*Attributes{
		"masters":    can(&User{Name: "admin", Groups: []string{GroupMasters}}, "get pods ns/x"),
		"role":       can(&User{Name: "ann", Groups: []string{"a", "b", GroupAuthenticated}}, "get configmaps ns/x"),
		"controller": can(Controller("replicaset-controller"), "create pods ns/x"),
		"refused":    can(&User{Name: "x", Groups: []string{GroupAuthenticated}}, "get configmaps ns/x"),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w.policy.Authorize(a)
			}
		})
	}
}
