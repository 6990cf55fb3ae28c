# The packages that building and testing need, beside Rust. Sourced by tests/all.sh and .ci/run.

# Installs the Debian packages that provide commands which are missing.
need() {
    local missing=()
    local command package
    while [ $# -gt 0 ]; do
        command=$1 package=$2
        shift 2
        command -v "$command" >/dev/null || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    echo "== installing ${missing[*]} (apt-get)"
    local as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

need cc gcc curl curl ffmpeg ffmpeg setpriv util-linux chromium chromium \
    pg_lsclusters postgresql /usr/sbin/pgbouncer pgbouncer
