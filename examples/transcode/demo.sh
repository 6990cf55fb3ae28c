#!/usr/bin/env bash
# Transcodes a video by an asynchronous call, from nothing to the finished file; and once more, with the app killed in
# the middle. It takes half a minute, and a few minutes more for compiling the first time.
#
#   examples/transcode/demo.sh
#
# It needs cargo. It installs the other missing programs (ffmpeg, curl, a linker) with apt-get. It starts the app on a
# free port of this machine, sends the request, watches the task, checks the product, and removes everything it made
# except the compiled program. It exits with an error if a step fails or shows anything unexpected.
set -eu

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
scratch=$(mktemp -d "${TMPDIR:-/tmp}/transcode-demo.XXXXXX")
app=

main() {
    install_what_is_missing
    make_a_clip
    build
    start
    call a
    watch_it
    look_at_the_product a
    hear_the_callback

    title "Once more, with a kill -9 in the middle of it"
    stop
    echo "The app is started again with an ffmpeg that takes as long as the video, so that there is a middle."
    printf '#!/bin/sh\nexec ffmpeg -re "$@"\n' >"$scratch/slow-ffmpeg"
    chmod +x "$scratch/slow-ffmpeg"
    FFMPEG="$scratch/slow-ffmpeg" start
    call b
    watch_it 0.2
    kill_it b
    start
    watch_it
    the_crash_is_counted
    look_at_the_product b
    hear_the_callback
    title "Done"
}

install_what_is_missing() {
    command -v cargo >/dev/null || die "cargo is missing: see https://rustup.rs"
    local packages=()
    if ! { command -v ffmpeg && command -v ffprobe; } >/dev/null; then packages+=(ffmpeg); fi
    command -v curl >/dev/null || packages+=(curl)
    command -v setpriv >/dev/null || packages+=(util-linux)
    command -v cc >/dev/null || packages+=(gcc libc6-dev)
    [ ${#packages[@]} -gt 0 ] || return 0

    command -v apt-get >/dev/null || die "install these and run me again: ${packages[*]}"
    local root=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || die "run this as root, then run me again: apt-get install ${packages[*]}"
        root=(sudo)
    fi
    title "Installing ${packages[*]} with apt-get"
    {
        ${root[@]+"${root[@]}"} apt-get update &&
            ${root[@]+"${root[@]}"} env DEBIAN_FRONTEND=noninteractive \
                apt-get install -y --no-install-recommends "${packages[@]}"
    } >"$scratch/apt.log" 2>&1 || {
        tail -n 20 "$scratch/apt.log" >&2
        die "apt-get could not install ${packages[*]}"
    }
}

make_a_clip() {
    title "A bucket with 20 s of 480p video"
    mkdir -p "$scratch/buckets/my-bucket" "$scratch/work"
    ffmpeg -nostdin -v error -f lavfi -i testsrc2=size=854x480:rate=30:duration=20 \
        -f lavfi -i sine=frequency=440:duration=20 \
        -c:v libx264 -preset ultrafast -pix_fmt yuv420p -c:a aac "$scratch/buckets/my-bucket/480P.mp4"
    ls -l "$scratch/buckets/my-bucket/480P.mp4"
}

build() {
    title "Building the app (the first time takes a while)"
    # Ask cargo where it put the binary.
    cargo build --manifest-path "$here/Cargo.toml" --message-format=json-render-diagnostics >"$scratch/build.json" ||
        die "the app does not build"
    binary=$(grep -o '"executable":"[^"]*"' "$scratch/build.json" | tail -n 1 | cut -d '"' -f 4)
    [ -x "$binary" ] || die "cargo did not say where it put the app"
}

start() {
    title "Starting the app"
    # Lines of an earlier app must not be taken for lines of this one.
    : >"$scratch/app.log"
    LISTEN=127.0.0.1:0 STORE="redb:$scratch/tasks.redb" BUCKETS="$scratch/buckets" WORK_DIR="$scratch/work" \
        TASKS_TOKEN='' "$binary" >"$scratch/app.log" 2>&1 &
    app=$!
    local i
    address=
    for i in $(seq 100); do
        address=$(sed -n 's/^listening on //p' "$scratch/app.log")
        [ -z "$address" ] || break
        kill -0 "$app" 2>/dev/null || die "the app did not start"
        sleep 0.1
    done
    [ -n "$address" ] || die "the app did not listen within 10 s"
    cat "$scratch/app.log"
}

# Stops only what this script started, and waits for its end, so that its files can be removed.
stop() {
    local i
    if [ -n "$app" ] && kill -TERM "$app" 2>/dev/null; then
        for i in $(seq 300); do
            kill -0 "$app" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "$app" 2>/dev/null || true
        wait "$app" 2>/dev/null || true
    fi
    app=
}

# The call that the whole example is about.
call() {
    title "The call"
    local body='{"bucket":"my-bucket","object":"480P.mp4","output_dir":"'$1'","dst_format":"mov"}'
    echo "\$ curl -v -H \"X-Fc-Invocation-Type: Async\" -H \"Content-Type: application/json\" -d '$body' -X POST $address/"
    timeout 30 curl -v -H "X-Fc-Invocation-Type: Async" -H "Content-Type: application/json" -d "$body" -X POST "$address/" \
        >"$scratch/202.json" 2>"$scratch/trace" || { cat "$scratch/trace" >&2; die "curl failed"; }
    tr -d '\r' <"$scratch/trace" | grep '^[<>]'
    indent <"$scratch/202.json"
    grep -q '^< HTTP/1.1 202' "$scratch/trace" || die "the answer is not a 202"
    result=$(header location)
    [ -n "$result" ] || die "the 202 does not say where the task is"
    task=${result%/result}
}

# Watches the task to its end; or, with a fraction given, until its progress is beyond that.
watch_it() {
    title "The task: GET $task"
    local deadline=$((SECONDS + 300)) line='' last='' status fraction message
    while [ "$SECONDS" -lt "$deadline" ]; do
        get "$task" >"$scratch/task.json" || die "the task cannot be read"
        status=$(field status)
        fraction=$(number fraction)
        message=$(field message)
        line=$(printf '%-10s %s  %s' "$status" "$(bar "${fraction:-0}")" "$message")
        # The last report of the progress may be a second old when the task ends.
        [ "$status" != Succeeded ] || line=$(printf '%-10s after %s ms' "$status" "$(number durationMs)")
        if [ "$line" != "$last" ]; then
            echo "$line"
            last=$line
        fi
        if [ -n "${1:-}" ] && [ "$status" = Running ] && is_beyond "${fraction:-0}" "$1"; then return 0; fi
        case $status in
        Enqueued | Running | Retrying | Stopping) sleep 0.25 ;;
        *) break ;;
        esac
    done
    echo
    indent <"$scratch/task.json"
    [ "$status" = Succeeded ] || die "the task did not succeed: $status"
}

# Kills the app, as an operator or a machine out of memory would.
kill_it() {
    local ffmpeg i
    ffmpeg=$(working)
    [ -n "$ffmpeg" ] || die "no ffmpeg runs, so there is nothing to be killed in the middle of"
    title "kill -KILL $app"
    kill -KILL "$app"
    wait "$app" 2>/dev/null || true
    app=
    for i in $(seq 50); do
        [ -n "$(working)" ] || break
        sleep 0.1
    done
    [ -z "$(working)" ] || die "ffmpeg ($ffmpeg) has outlived the app that started it"
    [ -z "$(ls -A "$scratch/buckets/my-bucket/$1" 2>/dev/null)" ] || die "a part of the product is in the bucket"
    echo "The app is gone, its ffmpeg ($ffmpeg) went with it, and no part of the product is in the bucket."
}

# The processes that work on a job.
working() {
    local process
    for process in /proc/[0-9]*; do
        case $(readlink "$process/cwd" 2>/dev/null) in
        "$scratch/work/"*) echo "${process#/proc/}" ;;
        esac
    done
}

the_crash_is_counted() {
    [ "$(number attempt)" = 2 ] || die "it ended in attempt $(number attempt), and the second was to be its last"
    [ "$(number alreadyRetriedTimes)" = 0 ] || die "a crash is no failure, and was charged as one"
    [ "$(grep -o 'rescued: its worker was gone' "$scratch/task.json" | wc -l)" = 1 ] || die "the crash is not in its history"
    echo
    echo "One crash, seen in its events: attempt 2, and no retry is used up."
}

look_at_the_product() {
    title "The result, as the handler gave it: GET $result"
    get "$result" | tee "$scratch/result.json"
    echo
    title "The product: buckets/my-bucket/$1/480P.mov"
    local product="$scratch/buckets/my-bucket/$1/480P.mov"
    ffprobe -v error -show_entries format=format_long_name,duration,size:stream=codec_name,width,height \
        -of default=noprint_wrappers=1 "$product" || die "ffprobe does not like the product"
    grep -q "\"size\":$(wc -c <"$product" | tr -d ' ')[,}]" "$scratch/result.json" ||
        die "the result and the product do not agree on the size"
    [ -z "$(ls -A "$scratch/work")" ] || die "working files were left behind"
}

# The app prints the message that its callback function receives.
hear_the_callback() {
    title "The callback: POST /dest-succ"
    local id i heard=
    id=$(field requestId)
    for i in $(seq 100); do
        heard=$(grep "^dest-succ: $id " "$scratch/app.log" || true)
        [ -z "$heard" ] || break
        sleep 0.1
    done
    [ -n "$heard" ] || die "the callback function heard nothing of $id"
    echo "$heard"
}

get() { curl -sS --fail-with-body --max-time 30 "$address$1"; }

header() { tr -d '\r' <"$scratch/trace" | sed -n "s/^< $1: //Ip" | head -n 1; }

# The first string with that name: enough for reading a task document, without installing a JSON parser.
field() { grep -o "\"$1\":\"[^\"]*\"" "$scratch/task.json" | head -n 1 | cut -d '"' -f 4; }

number() { grep -o "\"$1\":[0-9.]*" "$scratch/task.json" | head -n 1 | cut -d : -f 2; }

is_beyond() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a > b) }'; }

bar() { awk -v f="$1" 'BEGIN { n = int(f * 30 + 0.5); while (i++ < 30) s = s (i <= n ? "#" : "."); printf "[%s] %3d%%", s, f * 100 }'; }

indent() { awk '{ gsub(/,"/, ",\n \""); print }'; }

title() { printf '\n== %s ==\n' "$1"; }

die() {
    echo "demo: $1" >&2
    exit 1
}

tidy() {
    local code=$?
    trap - EXIT
    stop
    if [ "$code" != 0 ] && [ -s "$scratch/app.log" ]; then
        echo "== What the app said ==" >&2
        tail -n 20 "$scratch/app.log" >&2
    fi
    rm -rf "$scratch"
    exit "$code"
}

trap tidy EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
main
