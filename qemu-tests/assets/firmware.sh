# A kernel module that asks for firmware, for one of the kernels, and the
# firmware it asks for: firmware_probe.ko · plain.bin · packed.bin.xz
# Debian's kernels have no test_firmware, so it is built with their headers.
set -eu
. qemu-tests/assets/lib.sh

kernel=$BUILD/kernel-$1
case $1 in
6.1) suite=bookworm ;;
*) die "no headers are known for kernel $1" ;;
esac

inputs() { cat qemu-tests/assets/firmware_probe.c "$kernel/key"; }

make() {
    need apt-get apt
    need gcc-12 gcc-12
    need xz xz-utils
    out=$1
    release=$(cat "$kernel/release")
    private_apt "$suite" "$out/apt" >"$out/apt.conf"
    APT_CONFIG="$out/apt.conf" apt-get -q update
    (cd "$out/apt" && APT_CONFIG="$out/apt.conf" apt-get -q download "linux-headers-$release" \
        "linux-headers-${release%-cloud-amd64}-common" linux-kbuild-6.1) ||
        die "the archive has no headers of $release any more: remove $kernel, so that a newer one is fetched"
    for package in "$out"/apt/*.deb; do
        dpkg-deb -x "$package" "$out/apt/root"
    done
    headers=$out/apt/root/usr/src/linux-headers-$release
    sed -i "s,/usr/,$out/apt/root/usr/," "$headers/Makefile"
    mkdir "$out/apt/module"
    cp qemu-tests/assets/firmware_probe.c "$out/apt/module/"
    echo 'obj-m := firmware_probe.o' >"$out/apt/module/Makefile"
    command make -C "$headers" M="$out/apt/module" CC=gcc-12 modules
    cp "$out/apt/module/firmware_probe.ko" "$out/"
    echo 'as it is' >"$out/plain.bin"
    # The check that the kernel's decoder knows, and a dictionary it has room for.
    echo 'decompressed' | xz --check=crc32 --lzma2=dict=2MiB >"$out/packed.bin.xz"
    rm -rf "$out/apt" "$out/apt.conf"
}

shift
"$@"
