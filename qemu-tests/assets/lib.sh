# What the recipes share. A recipe is called from the top of the tree as
# `RECIPE [ARGUMENT] inputs`, which prints what its result depends on, and as
# `RECIPE [ARGUMENT] make DIR`, which fills DIR.

BUILD=$PWD/build/assets
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

die() {
    echo "error: $*" >&2
    exit 1
}

# need COMMAND PACKAGE: stops with the name of the package that is missing.
need() {
    PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null || die "$1 is missing: install $2 (make deps)"
}

# as_root COMMAND...: for the steps that set owners and devices.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "$1 needs root: run as root or install sudo"
    fi
}

# debian_mirror: the Debian archive that this machine itself is configured for.
# Before the first update apt knows no origin, but the suite as it is written;
# archives of others are named after Debian's suites too.
debian_mirror() {
    apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(RELEASE)|$(REPO_URI)' |
        awk -F '|' '$1 == "Debian" && $2 == "Debian" && !known { known = $4 }
            $1 == "" && $3 == "bookworm" && !guess { guess = $4 }
            END { print known ? known : guess }' |
        grep . || die "apt on this machine has no Debian archive among its sources"
}

# architecture_of ASSET: what its name ends in.
architecture_of() {
    case $1 in
    *-arm64) echo arm64 ;;
    *) echo amd64 ;;
    esac
}

# plywood_for ARCHITECTURE: the binary under test, which has to be there.
plywood_for() {
    case $1 in
    arm64) binary=build/aarch64/plywood rule=build-arm64 ;;
    *) binary=build/plywood rule=build ;;
    esac
    [ -x "$binary" ] || die "$binary is missing: run make $rule"
    echo "$binary"
}

# private_apt SUITE DIR [ARCHITECTURE]: prints a configuration for apt that knows
# SUITE alone and keeps everything in DIR; the system's sources and lists stay
# untouched.
private_apt() {
    mkdir -p "$2/lists/partial" "$2/archives/partial"
    mirror=$(debian_mirror)
    echo "deb [arch=${3:-amd64} target=Packages signed-by=$KEYRING] $mirror $1 main" >"$2/sources.list"
    cat <<CONF
Dir::Etc::sourcelist "$2/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "$2/lists";
Dir::State::status "/dev/null";
Dir::Cache "$2";
APT::Architecture "${3:-amd64}";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "3";
#clear APT::Update::Post-Invoke-Success;
#clear APT::Update::Post-Invoke;
CONF
}
