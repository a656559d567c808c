//! The release binary: what an initramfs can count on.

use std::fs;
use std::path::Path;

use qemu_tests::Architecture;

/// `p_type` of the program header that names a dynamic loader (elf(5)).
const PT_INTERP: u32 = 3;

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value[..N].copy_from_slice(&bytes[at..at + N]);
    u64::from_le_bytes(value)
}

fn assert_needs_no_loader(elf: &[u8]) {
    assert_eq!(&elf[..5], b"\x7fELF\x02", "not a 64-bit ELF file");
    // Elf64_Ehdr: e_phoff, e_phentsize, e_phnum.
    let (offset, size, count) = (number::<8>(elf, 32), number::<2>(elf, 54), number::<2>(elf, 56));
    assert!(count > 0);
    for header in 0..count {
        let kind = number::<4>(elf, (offset + header * size) as usize);
        assert_ne!(kind, u64::from(PT_INTERP), "the binary names a dynamic loader");
    }
}

fn assert_is_small(elf: &[u8]) {
    assert!(elf.len() <= 6 << 20, "{} bytes", elf.len());
    assert!(!elf.windows(8).any(|name| name == b".symtab\0"), "not stripped");
}

#[test]
fn it_is_static_stripped_and_at_most_6_mib() {
    let elf = read(&Architecture::Amd64.plywood());
    assert_needs_no_loader(&elf);
    assert_is_small(&elf);
}

#[test]
#[ignore = "needs a cross-built binary; make test-arm64 and make matrix run it"]
fn so_it_is_for_arm64() {
    /// `e_machine` of AArch64 (elf(5)).
    const EM_AARCH64: u64 = 183;
    let elf = read(&Architecture::Arm64.plywood());
    assert_eq!(number::<2>(&elf, 18), EM_AARCH64);
    assert_needs_no_loader(&elf);
    assert_is_small(&elf);
}
