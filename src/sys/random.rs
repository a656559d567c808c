//! Numbers that others on the network cannot foresee.

/// Early in the boot the kernel's generator may not be ready; waiting for it
/// could take minutes, and the numbers that it gives before are good enough
/// for transaction numbers and jitter.
pub fn random() -> u64 {
    let mut bytes = [0; 8];
    let flags = rustix::rand::GetRandomFlags::INSECURE;
    match rustix::rand::getrandom(&mut bytes, flags) {
        Ok(8) => u64::from_ne_bytes(bytes),
        // KERNEL(5.6): GRND_INSECURE is unknown to older ones.
        _ => {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
            (now.tv_nsec as u64) << 32 ^ now.tv_sec as u64 ^ u64::from(std::process::id())
        }
    }
}
