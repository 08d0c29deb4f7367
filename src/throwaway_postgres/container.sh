# Runs the Postgres of this image for as long as its owner stays connected; then the container ends.
#
#   sh -c <this> <name> <key of the owner's advisory lock> [server option]…
#
# The owner takes a session-level advisory lock, then leaves a mark: the word `owned` as the comment of database
# `postgres`. When its process ends, for whatever reason, its connection breaks and we get the lock in its place.
# Without the mark we could not tell an owner that has not come yet from one that is gone again.
key=$1
shift

docker-entrypoint.sh postgres "$@" &
server=$!
trap 'kill -INT "$server"' INT TERM

ask() { psql -U postgres -d postgres -Atqc "$1" 2>/dev/null; }

# An owner that has not come after two minutes will not come any more.
patience=120
until [ "$(ask "select shobj_description(oid, 'pg_database') from pg_database where datname = 'postgres'")" = owned ]; do
    patience=$((patience - 1))
    if [ "$patience" -eq 0 ] || ! kill -0 "$server" 2>/dev/null; then break; fi
    sleep 1
done
[ "$patience" -eq 0 ] || ask "select pg_advisory_lock($key)" >/dev/null

kill -INT "$server" 2>/dev/null
wait "$server"
