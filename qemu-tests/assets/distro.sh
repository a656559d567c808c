# An ordinary Debian on a disk, with its own kernels and with the means to make
# both kinds of initramfs: root.ext4 · root.squashfs · VERSION/vmlinuz for each
# of its kernels.
#   12   kernel 6.1
#   13   kernel 6.12, and the newest of its backports as `newest`
set -eu
. qemu-tests/assets/lib.sh
. qemu-tests/assets/debian.sh

release=$1
guest=qemu-tests/assets/guest
case $release in
12) suite=bookworm ;;
13) suite=trixie ;;
*) die "no suite is known for Debian $release" ;;
esac

inputs() {
    cat "$guest/report" qemu-tests/assets/distro/* qemu-tests/assets/debian.sh
    date +%Y-%m # what is in the archive changes
}

# A package that brings a file below /usr and nothing else.
make_package() {
    mkdir -p "$1/DEBIAN" "$1/usr/share/little"
    printf 'Package: little\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\nDescription: little\n' \
        >"$1/DEBIAN/control"
    echo little >"$1/usr/share/little/file"
    dpkg-deb --root-owner-group --build "$1" "$2" >/dev/null
}

make() {
    need mmdebstrap mmdebstrap
    need mksquashfs squashfs-tools
    need mke2fs e2fsprogs
    out=$1
    root=$out/root
    mirror=$(debian_mirror)
    make_package "$out/little" "$out/little.deb"
    newest=true
    if [ "$release" = 13 ]; then newest="chroot \"\$1\" apt-get -qy install -t $suite-backports linux-image-cloud-amd64"; fi
    # The kernels' own initramfs are not needed: update-initramfs comes later.
    as_root mmdebstrap --quiet --variant=minbase --keyring="$KEYRING" \
        --include=systemd,systemd-sysv,udev,dbus,kmod,initramfs-tools,busybox,zstd,dracut-core,linux-image-cloud-amd64 \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --aptopt='Apt::Install-Recommends "false"' \
        --essential-hook='mkdir -p "$1/etc/initramfs-tools"; echo update_initramfs=no >"$1/etc/initramfs-tools/update-initramfs.conf"' \
        --dpkgopt='force-confold' \
        --customize-hook="$newest" \
        --customize-hook="copy-in qemu-tests/assets/distro/distro-report.service /etc/systemd/system" \
        --customize-hook="upload $guest/report /usr/sbin/guest-report" \
        --customize-hook="upload qemu-tests/assets/distro/distro-report /usr/sbin/distro-report" \
        --customize-hook="upload $out/little.deb /root/little.deb" \
        --customize-hook='chmod 0755 "$1/usr/sbin/guest-report" "$1/usr/sbin/distro-report"' \
        --customize-hook='chroot "$1" systemctl --quiet enable distro-report.service' \
        --customize-hook='chroot "$1" systemctl --quiet set-default multi-user.target' \
        --customize-hook='rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* "$1"/boot/initrd*' \
        "$suite" "$root" "deb $mirror $suite main" "deb $mirror $suite-backports main"
    # In a container mmdebstrap cannot take away again what it has mounted.
    if mountpoint -q "$root/proc"; then as_root umount --lazy "$root/proc"; fi
    as_root sh -c ': >"$1/etc/machine-id"' sh "$root"
    as_root mksquashfs "$root" "$out/root.squashfs" -quiet -no-progress -no-xattrs -comp zstd -Xcompression-level 6
    for kernel in "$root"/boot/vmlinuz-*; do
        version=${kernel##*/vmlinuz-}
        case $version in
        6.1.* | 6.12.*) name=$(echo "$version" | cut -d. -f1,2) ;;
        *) name=newest ;;
        esac
        mkdir -p "$out/$name"
        as_root cp "$kernel" "$out/$name/vmlinuz"
        echo "$version" >"$out/$name/release"
    done
    as_root rm -f "$root"/boot/vmlinuz-* "$root"/boot/System.map-*
    make_ext4 "$root" "$out/root.ext4"
    as_root rm -rf "$root" "$out/little" "$out/little.deb"
    as_root chmod -R a+rX "$out"
}

shift
"$@"
