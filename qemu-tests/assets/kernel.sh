# A Debian cloud kernel, unpacked and not installed:
#   vmlinuz · release (text) · root/lib/modules/RELEASE, indexed by depmod
set -eu
. qemu-tests/assets/lib.sh

version=${1%-arm64}
architecture=$(architecture_of "$1")
case $version in
6.1) suite=bookworm ;;
6.12) suite=bookworm-backports ;;
*) die "no suite is known for kernel $version" ;;
esac

inputs() { echo "$version $suite $architecture"; }

make() {
    need apt-get apt
    need dpkg-deb dpkg
    need depmod kmod
    out=$1
    private_apt "$suite" "$out/apt" "$architecture" >"$out/apt.conf"
    export APT_CONFIG="$out/apt.conf"
    apt-get -q update
    # The metapackage names the newest image of its suite.
    image=$(apt-cache depends "linux-image-cloud-$architecture" | awk '$1 == "Depends:" { print $2; exit }')
    case $image in
    "linux-image-$version."*) ;;
    *) die "$suite holds ${image:-no cloud kernel}, not a kernel $version" ;;
    esac
    (cd "$out" && apt-get -q download "$image")
    dpkg-deb -x "$out"/linux-image-*.deb "$out/root"

    release=${image#linux-image-}
    PATH=$PATH:/usr/sbin:/sbin depmod -b "$out/root" "$release"
    echo "$release" >"$out/release"
    mv "$out/root/boot/vmlinuz-$release" "$out/vmlinuz"
    echo "kernel $version: $(dpkg-deb -f "$out"/linux-image-*.deb Package Version | tr '\n' ' ')"
    (cd "$out" && sha256sum vmlinuz linux-image-*.deb)
    rm -rf "$out/apt" "$out/apt.conf" "$out/root/boot" "$out/root/usr/share" "$out"/linux-image-*.deb
}

shift
"$@"
