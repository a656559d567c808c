# Installs the packages named as arguments, as far as they are missing.
set -eu
. qemu-tests/assets/lib.sh

missing=
for package in "$@"; do
    case $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) in
    installed) ;;
    *) missing="$missing $package" ;;
    esac
done
command -v cargo >/dev/null || echo "note: cargo is missing: Rust comes from rustup, Debian's is too old" >&2
[ -n "$missing" ] || exit 0

export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # one word is one package
if ! apt-get --simulate --quiet=2 install --no-install-recommends $missing >/dev/null 2>&1; then
    as_root apt-get --quiet update
fi
# shellcheck disable=SC2086
as_root apt-get --quiet --yes install --no-install-recommends $missing

# These run when a test starts them; their packages start services too.
for service in docker-registry containerd; do
    case " $missing " in
    *" $service "*) if [ -d /run/systemd/system ]; then as_root systemctl --quiet disable --now "$service"; fi ;;
    esac
done
