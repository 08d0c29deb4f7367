# Runs a throwaway Postgres for as long as standard input stays open; then nothing of it is left.
#
#   sh -c <this> <name> <folder of initdb and postgres> [server option]…
#
# Whoever holds the other end of standard input owns the server. When that end closes, because it was closed or
# because its process ended, was killed or crashed, the server is stopped and the folder removed. Everything the
# server says goes to standard output, which ends when all is gone.
set -u
umask 077
exec 2>&1
export LC_ALL=C # the log line that tells readiness, in English
unset PGDATA PGHOST PGPORT PGUSER PGDATABASE PGOPTIONS PGSERVICE PGDATESTYLE PGTZ PGCLIENTENCODING
trap '' PIPE # the reader may be gone long before we are

programs=$1
shift

folder=$(mktemp -d "${TMPDIR:-/tmp}/flexportal-sync-postgres.XXXXXX" 2>/dev/null) ||
    folder=$(mktemp -d /tmp/flexportal-sync-postgres.XXXXXX) || exit 1
cd "$folder" || exit 1 # the folder we came from may be closed to this user

server=
stopping=
# Stops without writing anything out, since the files go anyway; the server itself kills what does not listen.
# Repeated, because a server that has hardly begun may still ignore the signal.
stop() {
    stopping=yes
    [ -z "$server" ] || while kill -QUIT "$server" 2>/dev/null; do sleep 1; done &
}
trap stop INT TERM HUP
trap 'cd / && rm -rf "$folder"' EXIT

# C.UTF-8 is missing on some systems; there plain C sorts the same way.
initialise() {
    "$programs/initdb" -D "$folder/data" -U postgres --auth=trust --encoding=UTF8 --locale="$1" --no-sync >initdb.log
}
initialise C.UTF-8 || { [ -z "$stopping" ] && rm -rf data && initialise C; } || { cat initdb.log; exit 1; }
[ -z "$stopping" ] || exit 1

echo "folder $folder"
# No port is opened: the socket lies in a folder that only this user can enter.
"$programs/postgres" -D "$folder/data" -k "$folder" -p 5432 -c listen_addresses= "$@" </dev/null &
server=$!

# A job in the background gets no standard input unless told so.
exec 3<&0
{
    while read -r _; do :; done
    while kill -QUIT "$server" 2>/dev/null; do sleep 1; done
} <&3 >/dev/null 2>&1 &
watcher=$!
exec 3<&-

# A signal ends `wait` before the server has ended.
while kill -0 "$server" 2>/dev/null; do wait "$server"; done
kill "$watcher" 2>/dev/null
exit 0
