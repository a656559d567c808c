#!/bin/sh
# Without systemd: the root and its /usr are mounted, its init has not started.
if ! /usr/bin/plywood boot --root "$NEWROOT"; then
    die "plywood: the root cannot be assembled; the reason is above"
fi
