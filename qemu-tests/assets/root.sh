# A root file system for the guest, in both forms: root.squashfs · root.ext4
#   busybox   a shell, plywood, and an init that reports; boots in seconds
#   busybox-arm64   the same for arm64
#   debian    Debian 12 with systemd, which reports when its default target is reached
set -eu
. qemu-tests/assets/lib.sh

kind=$1
guest=qemu-tests/assets/guest
busybox=$(command -v busybox || echo /bin/busybox)
architecture=$(architecture_of "$kind")

inputs() {
    cat "$guest"/*
    case $kind in
    busybox*) cat "$busybox" "$(plywood_for "$architecture")" ;;
    esac
}

# programs ROOT: busybox for the architecture, by the names that the host's has.
programs() {
    if [ "$architecture" = amd64 ]; then
        install -m 0755 "$busybox" "$1/usr/bin/busybox"
    else
        private_apt bookworm "$1/apt" "$architecture" >"$1/apt.conf"
        (export APT_CONFIG="$1/apt.conf" && cd "$1" && apt-get -q update && apt-get -q download busybox-static)
        dpkg-deb --fsys-tarfile "$1"/busybox-static_*.deb | tar -xO ./bin/busybox >"$1/usr/bin/busybox"
        chmod 0755 "$1/usr/bin/busybox"
        rm -r "$1/apt" "$1/apt.conf" "$1"/busybox-static_*.deb
    fi
    for applet in $("$busybox" --list); do
        ln -s busybox "$1/usr/bin/$applet" 2>/dev/null || true
    done
}

make_busybox() {
    need busybox busybox-static
    root=$1
    for dir in dev etc opt proc root run sys tmp usr/bin usr/lib usr/local/bin usr/sbin var/lib; do
        mkdir -p "$root/$dir"
    done
    ln -s usr/bin "$root/bin"
    ln -s usr/sbin "$root/sbin"
    ln -s usr/lib "$root/lib"
    programs "$root"
    echo 'root::0:0:root:/root:/bin/sh' >"$root/etc/passwd"
    printf 'ID=guest\nVERSION_ID=1.0\nPRETTY_NAME="Small guest"\n' >"$root/etc/os-release"
    install -m 0755 "$guest/init" "$root/usr/sbin/init"
    install -m 0755 "$guest/report" "$root/usr/sbin/guest-report"
    install -m 0755 "$guest/demo" "$root/usr/sbin/demo"
    ln -s demo "$root/usr/sbin/demo-shell"
    install -m 0755 "$(plywood_for "$architecture")" "$root/usr/bin/plywood"
    as_root chown -R 0:0 "$root"
}

# An empty machine-id lets systemd run on a read-only /etc. Nobody logs in, and
# logind would try in vain to write to a read-only /var.
make_debian() {
    need mmdebstrap mmdebstrap
    as_root mmdebstrap --quiet --variant=minbase --include=systemd,systemd-sysv,udev,dbus \
        --keyring="$KEYRING" --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook="copy-in $guest/guest-report.service /etc/systemd/system" \
        --customize-hook="upload $guest/report /usr/sbin/guest-report" \
        --customize-hook='chmod 0755 "$1/usr/sbin/guest-report"' \
        --customize-hook='chroot "$1" systemctl --quiet enable guest-report.service' \
        --customize-hook='chroot "$1" systemctl --quiet set-default multi-user.target' \
        --customize-hook='chroot "$1" systemctl --quiet mask systemd-logind getty.target e2scrub_reap' \
        --customize-hook='rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/*' \
        bookworm "$1" "deb $(debian_mirror) bookworm main"
    as_root sh -c ': >"$1/etc/machine-id"' sh "$1"
}

make() {
    need mksquashfs squashfs-tools
    need mke2fs e2fsprogs
    out=$1
    "make_${kind%-arm64}" "$out/root"
    as_root mksquashfs "$out/root" "$out/root.squashfs" -quiet -no-progress -no-xattrs -comp zstd -Xcompression-level 6
    # Room for what a test writes, a third above what is there.
    kib=$(as_root du -sk "$out/root" | cut -f1)
    PATH=$PATH:/usr/sbin:/sbin as_root mke2fs -q -t ext4 -L "$kind" -E root_owner=0:0 \
        -d "$out/root" "$out/root.ext4" "$((kib * 4 / 3 + 16384))k"
    as_root rm -rf "$out/root"
    as_root chmod 0644 "$out/root.squashfs" "$out/root.ext4"
}

shift
"$@"
