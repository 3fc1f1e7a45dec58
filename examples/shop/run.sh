#!/bin/sh
# Starts a cluster of three nodes on this machine, or what does not run of it, and the shop on them. KEB_DATA_DIR moves the cluster.
set -eu
bin=${BIN:-$PWD/bin}
keb="$bin/keb"
dir=${KEB_DATA_DIR:-/var/lib/keb}
say() { printf '\n== %s\n' "$*"; }

say "three nodes"
"$keb" up --nodes 3

say "the shop"
"$keb" image import "$bin/postgres.tar"
"$keb" image import "$bin/shop.tar"
if [ ! -e "$dir/shop.crt" ]; then
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj /CN=shop.example \
		-addext subjectAltName=DNS:shop.example -keyout "$dir/shop.key" -out "$dir/shop.crt" 2>/dev/null
fi
"$keb" kubectl apply -f examples/shop/shop.yaml
"$keb" kubectl create secret tls shop-tls --namespace shop --cert "$dir/shop.crt" --key "$dir/shop.key" --dry-run=client -o yaml |
	"$keb" kubectl apply -f -
for what in statefulset/database deployment/api deployment/front; do
	"$keb" kubectl rollout status --namespace shop "$what" --timeout=120s
done
"$keb" kubectl wait --namespace shop --for=jsonpath='{.status.loadBalancer.ingress[0].ip}' ingress/shop --timeout=30s >/dev/null
"$keb" kubectl get pods --namespace shop -o wide

say "an order through the Ingress"
node=$("$keb" kubectl get node node-1 -o jsonpath='{.status.addresses[?(@.type=="InternalIP")].address}')
set -- --silent --show-error --fail --cacert "$dir/shop.crt" --resolve "shop.example:443:$node" --retry 10 --retry-all-errors --retry-delay 1
curl "$@" --data '{"item": "apple", "quantity": 3}' https://shop.example/api/orders
curl "$@" https://shop.example/api/orders

cat <<END

The shop is open. examples/shop/README.md goes on from here.
  curl --cacert $dir/shop.crt --resolve shop.example:443:$node https://shop.example/
  $keb kubectl get all --namespace shop
  $keb down          (stops everything and removes it)
END
