# Downloads Debian packages that nothing installs: packages.sh DIR PACKAGE...
# The system's own sources and lists stay untouched.
set -eu
. qemu-tests/assets/lib.sh

need apt-get apt
out=$1
shift
private_apt bookworm "$out/apt" >"$out/apt.conf"
# Firmware has a component of its own.
sed -i 's/ main$/ main non-free-firmware/' "$out/apt/sources.list"
export APT_CONFIG="$out/apt.conf"
apt-get -q update
for package in "$@"; do
    case $package in
    # The metapackage names the newest image.
    linux-image-amd64) package=$(apt-cache depends "$package" | awk '$1 == "Depends:" { print $2; exit }') ;;
    esac
    (cd "$out" && apt-get -q download "$package")
done
rm -rf "$out/apt" "$out/apt.conf"
