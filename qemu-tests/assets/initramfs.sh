# The initramfs under test, for one of the kernels: initramfs.cpio
# It holds no configuration; each test appends its own.
set -eu
. qemu-tests/assets/lib.sh

kernel=$BUILD/kernel-$1
plywood=build/plywood

inputs() {
    [ -x "$plywood" ] || die "$plywood is missing: run make build"
    cat initramfs/build initramfs/modules "$plywood" "$kernel/key"
}

make() {
    initramfs/build --plywood "$plywood" --kernel-release "$(cat "$kernel/release")" \
        --modules-from "$kernel/root" --shell "$(command -v busybox)" -o "$1/initramfs.cpio"
}

shift
"$@"
