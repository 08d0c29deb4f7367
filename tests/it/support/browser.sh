# Runs chromedriver for as long as standard input stays open; then neither it nor its browsers nor their files are left.
#
#   sh -c <this> <name> <chromedriver>
#
# Begins with the line `folder <for profiles>`, passes on what chromedriver says until it names its port, and closes
# standard output when all is gone. Browsers have to be started with --remote-debugging-pipe: they end with the other
# end of that pipe, however that ends.
set -u
umask 077
exec 2>&1
trap '' INT TERM HUP PIPE # standard input alone decides

folder=$(mktemp -d "${TMPDIR:-/tmp}/flexportal-sync-browser.XXXXXX") || exit 1
trap 'cd / && rm -rf "$folder"' EXIT
cd "$folder" || exit 1
export HOME="$folder" TMPDIR="$folder" TZ=UTC LC_ALL=C.UTF-8
mkfifo said || exit 1
echo "folder $folder"

"$1" --port=0 </dev/null >said 2>&1 &
driver=$!

# A job in the background gets no standard input unless told so.
exec 3<&0
{
    while read -r _; do :; done
    kill -KILL "$driver" 2>/dev/null
} <&3 >/dev/null 2>&1 &
watcher=$!
exec 3<&-

# The pipe has its end when the last process that was started with it is gone.
{
    while read -r line; do
        echo "$line"
        case $line in *'started successfully on port'*) break ;; esac
    done
    cat >/dev/null
} <said
kill "$watcher" 2>/dev/null
exit 0
