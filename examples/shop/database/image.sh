#!/bin/sh
# image.sh OUT: makes the image keb.local/postgres:1 from the files of Debian's package postgresql.
set -eu
here=$(dirname "$0")
package=$(ls -d /usr/lib/postgresql/*/ | sort -V | tail -1)
version=$(basename "$package")
users=$(mktemp)
trap 'rm -f "$users"' EXIT
printf 'root:x:0:0:root:/:/bin/sh\npostgres:x:999:999:PostgreSQL:/data:/bin/sh\n' >"$users"
chmod 644 "$users"

programs=$(printf "$package%s " bin/postgres bin/initdb bin/pg_isready bin/psql lib/plpgsql.so lib/dict_snowball.so)
libraries=$(ldd $programs | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p; s/^\t\(\/[^ ]*\) (.*/\1/p' | sort -u)
data=$(find "/usr/share/postgresql/$version" -type f ! -path '*/extension/*'; ls "/usr/share/postgresql/$version/extension/"plpgsql*)
files=$(for f in $programs $libraries $data; do echo "${f#/}=$f"; done)
links=$(for name in sh ls rm mv kill sync; do echo "bin/$name@busybox"; done)

${GO:-go} run ./examples/mkimage -o "$1" -name keb.local/postgres:1 -entrypoint /start.sh -env PATH=/bin:"${package}bin" \
	tmp/ data/ etc/passwd="$users" start.sh="$here/start.sh" bin/busybox=/bin/busybox $links $files
