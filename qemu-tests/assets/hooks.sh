# What each way to make an initramfs makes of plywood's hooks in a Debian that
# has them installed, for each of its kernels:
#   KERNEL.initramfs-tools · KERNEL.dracut-systemd · KERNEL.dracut   with hooks
#   KERNEL.plain-initramfs-tools · KERNEL.plain-dracut-systemd       without
set -eu
. qemu-tests/assets/lib.sh
. qemu-tests/assets/debian.sh

release=$1
distro=$BUILD/distro-$release
plywood=build/plywood

inputs() {
    [ -x "$plywood" ] || die "$plywood is missing: run make build"
    find initramfs packaging/debian/dracut.conf -type f -exec cat {} +
    cat "$plywood" "$distro/key" qemu-tests/assets/debian.sh
}

# install_hooks ROOT: as a package would.
install_hooks() {
    install -D -m 0755 "$plywood" "$1/usr/bin/plywood"
    for script in hooks scripts/local-bottom scripts/nfs-bottom; do
        install -D -m 0755 "initramfs/initramfs-tools/$script/plywood" "$1/usr/share/initramfs-tools/$script/plywood"
    done
    install -D -m 0755 -t "$1/usr/lib/dracut/modules.d/50plywood" initramfs/dracut/50plywood/*.sh
    install -m 0644 initramfs/systemd/plywood-initramfs.service "$1/usr/lib/dracut/modules.d/50plywood/"
    install -D -m 0644 packaging/debian/dracut.conf "$1/usr/lib/dracut/dracut.conf.d/plywood.conf"
}

make() {
    need unsquashfs squashfs-tools
    out=$1
    root=$out/root
    as_root unsquashfs -quiet -no-progress -no-xattrs -d "$root" "$distro/root.squashfs"
    for kernel in "$distro"/*/release; do
        name=$(basename "$(dirname "$kernel")")
        version=$(cat "$kernel")
        in_root "$root" mkinitramfs -o /tmp/plain-initramfs-tools "$version"
        in_root "$root" dracut --quiet --no-hostonly --reproducible --kver "$version" /tmp/plain-dracut-systemd
        for plain in "$root"/tmp/plain-*; do as_root mv "$plain" "$out/$name.${plain##*/}"; done
    done
    as_root sh "$0" "$release" install_hooks "$root"
    for kernel in "$distro"/*/release; do
        name=$(basename "$(dirname "$kernel")")
        version=$(cat "$kernel")
        in_root "$root" mkinitramfs -o /tmp/initramfs-tools "$version"
        in_root "$root" dracut --quiet --no-hostonly --reproducible --kver "$version" /tmp/dracut-systemd
        in_root "$root" dracut --quiet --no-hostonly --reproducible --kver "$version" \
            --omit 'systemd systemd-initrd dracut-systemd dbus crypt' /tmp/dracut
        for made in initramfs-tools dracut-systemd dracut; do as_root mv "$root/tmp/$made" "$out/$name.$made"; done
    done
    as_root rm -rf "$root"
    as_root chmod -R a+rX "$out"
}

shift
"$@"
