# A Debian that plywood's package was installed on, and what the package leaves:
#   root.ext4 · initrd   as the installation made them
#   dracut               what dracut makes of the same installation
#   left                 names of what purging left, one a line
#   kept                 what it left of a state that the running root writes to
set -eu
. qemu-tests/assets/lib.sh
. qemu-tests/assets/debian.sh

release=$1
distro=$BUILD/distro-$release
plywood=build/plywood

inputs() {
    [ -x "$plywood" ] || die "$plywood is missing: run make build"
    find initramfs systemd packaging docs configs -type f -exec cat {} +
    cat "$plywood" "$distro/key" src/cli.rs qemu-tests/assets/debian.sh
}

# Logs, dpkg's own files and caches change with any package.
names() {
    (cd "$1" && as_root find . -xdev \( -path ./var/lib/dpkg -o -path ./var/log -o -path ./var/cache -o -path ./boot \
        -o -path ./tmp -o -path ./dev -o -path ./proc \) -prune -o -print) | LC_ALL=C sort
}

make() {
    need unsquashfs squashfs-tools
    need mke2fs e2fsprogs
    out=$1
    root=$out/root
    package=$(packaging/deb "$plywood" "$out")
    as_root unsquashfs -quiet -no-progress -no-xattrs -d "$root" "$distro/root.squashfs"
    version=$(cat "$distro"/6.*/release)
    # As an installed kernel leaves it; from then on triggers act.
    as_root sed -i s/no/yes/ "$root/etc/initramfs-tools/update-initramfs.conf"
    in_root "$root" update-initramfs -c -k "$version"
    names "$root" >"$out/before"

    as_root cp "$package" "$root/tmp/plywood.deb"
    in_root "$root" dpkg --install /tmp/plywood.deb
    as_root cp "$root/boot/initrd.img-$version" "$out/initrd"
    in_root "$root" dracut --quiet --no-hostonly --reproducible --kver "$version" /tmp/dracut
    as_root mv "$root/tmp/dracut" "$out/dracut"
    make_ext4 "$root" "$out/root.ext4"

    # A machine that writes to its state while it runs.
    in_root "$root" sh -eu -c 'mkdir -p /var/lib/plywood/overlay/upper /tmp/layers
        touch /var/lib/plywood/lock
        mount -n -t tmpfs tmpfs /tmp/layers
        mkdir /tmp/layers/upper /tmp/layers/work
        mount -n -t overlay plywood -o lowerdir=/usr/share,upperdir=/tmp/layers/upper,workdir=/tmp/layers/work /usr/share
        /var/lib/dpkg/info/plywood.postrm purge
        find /var/lib/plywood -type f' >"$out/kept"

    # One that does not, with what it would have by now.
    as_root mkdir -p "$root/var/lib/plywood/blobs" "$root/etc/plywood"
    as_root touch "$root/etc/plywood/machine.yaml" "$root/var/lib/plywood/lock" "$root/var/lib/plywood/.hidden"
    in_root "$root" dpkg --purge plywood
    names "$root" >"$out/after"
    LC_ALL=C comm -13 "$out/before" "$out/after" >"$out/left"
    [ -s "$out/before" ] && [ -s "$out/after" ] || die "nothing is known of what is in the root"
    in_root "$root" lsinitramfs "/boot/initrd.img-$version" >"$out/initrd.list"
    grep -q bin/busybox "$out/initrd.list" || die "the initramfs cannot be listed"
    grep plywood "$out/initrd.list" >>"$out/left" || :
    as_root rm -rf "$root"
    as_root chmod -R a+rX "$out"
}

shift
"$@"
