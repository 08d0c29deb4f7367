# Runs a Postgres that tests stop and start again on the same data; when standard input closes, nothing of it is left.
#
#   sh -c <this> <name> <folder of initdb, postgres and pg_ctl> [server option]…
#
# Reads one word a line, obeys it and answers with the same word: `start`, `stop` (at once, in immediate mode), `kill`
# (as kill -9 does it to the postmaster). Begins with the line `folder <where its socket lies>`.
set -u
umask 077
exec 2>&1
export LC_ALL=C
unset PGDATA PGHOST PGPORT PGUSER PGDATABASE PGOPTIONS PGSERVICE PGDATESTYLE PGTZ PGCLIENTENCODING
trap '' PIPE # the reader may be gone long before we are

programs=$1
shift

folder=$(mktemp -d /tmp/flexportal-sync-restarts.XXXXXX) || exit 1
cd "$folder" || exit 1 # the folder we came from may be closed to this user
trap 'cd / && rm -rf "$folder"' EXIT
trap exit INT TERM HUP

"$programs/initdb" -D data -U postgres --auth=trust --encoding=UTF8 --locale=C --no-sync >initdb.log ||
    { cat initdb.log; exit 1; }
echo "folder $folder"

# The processes of a killed server need a moment to notice, and until then no other starts on their data.
start() {
    tries=0
    until "$programs/pg_ctl" start -w -s -D data -l server.log \
        -o "-k $folder -p 5432 -c listen_addresses= $*" </dev/null >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 100 ] || { cat server.log; exit 1; }
        sleep 0.1
    done
}

stop() {
    "$programs/pg_ctl" stop -w -s -m immediate -D data </dev/null >/dev/null 2>&1
}

while read -r word; do
    case $word in
        start) start "$@" ;;
        stop) stop ;;
        kill) kill -KILL "$(head -n 1 data/postmaster.pid)" ;;
    esac
    echo "$word"
done
stop
