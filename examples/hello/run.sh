#!/bin/sh
# Starts a cluster on this machine if none runs yet, deploys the hello application and fetches its answers in three ways.
set -eu
keb="$PWD/bin/keb"
log="$PWD/bin/keb.log"
kubectl() { "$keb" kubectl "$@"; }
say() { printf '\n== %s\n' "$*"; }

if ! "$keb" status >/dev/null 2>&1; then
	say "starting keb server (log: $log)"
	setsid "$keb" server >"$log" 2>&1 </dev/null &
	pid=$!
	while ! "$keb" status --wait 60s >/dev/null 2>&1; do
		kill -0 "$pid" 2>/dev/null || { cat "$log"; exit 1; }
	done
fi
"$keb" status

say "deploying examples/hello"
"$keb" image import bin/hello.tar
"$keb" image import bin/busybox.tar
kubectl apply -f examples/hello/hello.yaml
kubectl rollout status deployment/hello --timeout=60s

ip=$(kubectl get service hello -o jsonpath='{.spec.clusterIP}')
node=$(kubectl get nodes -o jsonpath='{.items[0].status.addresses[?(@.type=="InternalIP")].address}')
kubectl delete pod hello-client --ignore-not-found --now >/dev/null
# The client's pod asks by DNS name first: once it is answered, the rules that serve the addresses below are in place.
kubectl run hello-client --image=keb.local/busybox:1 --image-pull-policy=Never --restart=Never --command -- \
	sh -c 'for i in 1 2 3 4 5 6 7 8 9 10; do fetch http://hello; done' >/dev/null
kubectl wait --for=jsonpath='{.status.phase}'=Succeeded pod/hello-client --timeout=30s >/dev/null

say "answers through the DNS name http://hello, from a pod"
kubectl logs hello-client | sort | uniq -c
fetch() { for i in 1 2 3 4 5 6 7 8 9 10; do bin/fetch "$1"; done | sort | uniq -c; }
say "answers through the ClusterIP http://$ip"
fetch "http://$ip"
say "answers through the NodePort http://$node:30080"
fetch "http://$node:30080"
kubectl delete pod hello-client --now >/dev/null

cat <<END

The cluster runs. Next, try:
  $keb kubectl get pods -o wide
  $keb kubectl scale deployment hello --replicas=5
  $keb reset          (stops everything and removes it)
END
