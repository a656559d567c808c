# The initramfs under test, for one of the kernels: initramfs.cpio
# It holds no configuration; each test appends its own.
set -eu
. qemu-tests/assets/lib.sh

kernel=$BUILD/kernel-$1
architecture=$(architecture_of "$1")
plywood=$(plywood_for "$architecture")
# The emergency shell is the host's.
shell=
if [ "$architecture" = amd64 ]; then shell="--shell $(command -v busybox)"; fi

inputs() {
    cat initramfs/build initramfs/modules "$plywood" "$kernel/key"
}

make() {
    # shellcheck disable=SC2086 # an option and its value
    initramfs/build --plywood "$plywood" --kernel-release "$(cat "$kernel/release")" \
        --modules-from "$kernel/root" $shell -o "$1/initramfs.cpio"
}

shift
"$@"
