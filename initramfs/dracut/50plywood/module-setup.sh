#!/bin/bash
# System extensions, assembled by plywood over the root before init starts.
# Asked for by add_dracutmodules+=" plywood " in a file of dracut.conf.d.

check() {
    require_binaries plywood || return 1
    return 255
}

depends() {
    return 0
}

installkernel() {
    hostonly='' instmods overlay squashfs loop
}

install() {
    inst_binary plywood /usr/bin/plywood
    if [[ -d $dracutsysrootdir/etc/plywood ]]; then
        # A configuration may hold passwords; dracut's image is for root alone.
        inst_dir /etc/plywood
        find -L "$dracutsysrootdir/etc/plywood" -type f -print0 | while IFS= read -r -d '' file; do
            inst_simple "$file" "${file#"$dracutsysrootdir"}"
        done
    fi
    if dracut_module_included "systemd"; then
        inst_simple "$moddir/plywood-initramfs.service" "$systemdsystemunitdir/plywood-initramfs.service"
        $SYSTEMCTL -q --root "$initdir" enable plywood-initramfs.service
    else
        # After the module usrmount, which mounts /usr.
        inst_hook pre-pivot 85 "$moddir/plywood.sh"
    fi
}
