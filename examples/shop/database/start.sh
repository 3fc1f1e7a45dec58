#!/bin/sh
# Starts PostgreSQL on the volume at /data; the first time it makes a database there, whole or not at all.
set -eu
bin=$(ls -d /usr/lib/postgresql/*/bin)
if [ ! -e /data/database ]; then
	rm -rf /data/new
	"$bin/initdb" -D /data/new -U shop --pwfile=/etc/shop/database/password --auth=scram-sha-256 --encoding=UTF8 --locale=C
	echo 'host all all all scram-sha-256' >>/data/new/pg_hba.conf
	mv /data/new /data/database
fi
exec "$bin/postgres" -D /data/database -k /tmp -c listen_addresses='*' -c shared_buffers=32MB
