//! What a crash leaves: of the process, at any system call, and of the machine,
//! between any two. Needs root, strace, unshare and a static busybox
//! (`make deps`).

mod calls;
mod full;
mod machine;
mod model;
mod trace;
