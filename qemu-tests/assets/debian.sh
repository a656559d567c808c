# What the recipes share that change an unpacked Debian.

# in_root ROOT COMMAND...: with its /proc and /dev, in a mount namespace that
# takes them along when it ends.
in_root() {
    as_root unshare --mount sh -eu -c 'root=$1; shift
        mount --bind "$root" "$root"; mount -t proc proc "$root/proc"; mount --rbind /dev "$root/dev"
        chroot "$root" env PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"' sh "$@"
}

# make_ext4 ROOT FILE: with room for what a test writes.
make_ext4() {
    kib=$(as_root du -sk "$1" | cut -f1)
    PATH=$PATH:/usr/sbin:/sbin as_root mke2fs -q -t ext4 -L debian -E root_owner=0:0 \
        -d "$1" "$2" "$((kib * 4 / 3 + 65536))k"
}
