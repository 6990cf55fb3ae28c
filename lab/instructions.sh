#!/usr/bin/env bash
# Counts the instructions of one task's life in memory, submitted in the process and requested through the layer, beside
# the same written by hand. Instructions are exact on a busy machine, where times vary by more than the effect of a
# change.
#
#     lab/instructions.sh          # 10,000 lives, four minutes
#     lab/instructions.sh 2000     # half a minute, exact to some percent
#
# One process runs so many lives, and another one twice as many, under callgrind, which counts all threads. The cost of
# one life is the difference divided by their number, so it includes neither the start-up nor filling the store. Making
# the request is counted by itself and subtracted from the others.
#
# Ids and the keys of hash maps are random, and the allocator's work depends on them. So each figure is the median of
# three runs: the same code gives the same figure within 1 %.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "${BASH_SOURCE[0]}")/.."

lives=${1:-10000}

if ! command -v valgrind >/dev/null; then
    echo "installing valgrind (apt-get)" >&2
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends valgrind
fi

binary=$(cargo bench -p lab --bench lives --no-run --message-format=json |
    sed -n 's/.*"kind":\["bench"\].*"name":"lives".*"executable":"\([^"]*\)".*/\1/p')

# The instructions of a number of lives of a kind, including the start-up.
instructions() {
    local log
    log=$(mktemp)
    if ! valgrind --tool=callgrind --callgrind-out-file=/dev/null "$binary" "$1" "$2" 2>"$log" >/dev/null; then
        cat "$log" >&2
        exit 1
    fi
    sed -n 's/^.*Collected *: *\([0-9]*\).*/\1/p' "$log"
    rm "$log"
}

# The instructions of one life.
one() {
    local some twice
    for _ in 1 2 3; do
        some=$(instructions "$1" "$lives")
        twice=$(instructions "$1" $((2 * lives)))
        echo $(((twice - some + lives / 2) / lives))
    done | sort -n | sed -n 2p
}

request=$(one request)
map=$(one map)
kept=$(one kept)
keeping=$(one keeping)
submitted=$(one submitted)
requested=$(one requested)

show() { # name, instructions including the request
    awk -v name="$1" -v mine=$(($2 - request)) -v map=$((map - request)) -v kept=$((kept - request)) \
        -v keeping=$((keeping - request)) \
        'BEGIN { printf "%-44s%14d%8.2f%8.2f%8.2f\n", name, mine, mine / map, mine / kept, mine / keeping }'
}

printf '%-44s%14s%8s%8s%8s\n' "one life, one thread" instructions ratio kept keeping
printf '%-44s%14d\n' "the request itself" "$request"
show "tokio::spawn and a map, by hand" "$map"
show "the same, keeping requests" "$kept"
show "the same, keeping requests, with a document" "$keeping"
show "ours: Tasks::submit" "$submitted"
show "ours: an asynchronous request" "$requested"
