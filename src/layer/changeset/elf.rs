//! The machine that an ELF file is for (System V ABI, "ELF Header").
//!
//! ```text
//! 0 7f 'E' 'L' 'F' | class 1 | byte order 1: 1 little, 2 big | … 16
//! 16 type 2 | machine 2
//! ```

use std::fmt;

/// `e_machine` of an ELF file; 0 for a file that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ElfMachine(u16);

/// OCI's architecture, where `e_machine` says the same.
const ARCHITECTURES: [(&str, u16); 11] = [
    ("386", 3),
    ("mips", 8),
    ("mipsle", 8),
    ("ppc64", 21),
    ("ppc64le", 21),
    ("s390x", 22),
    ("arm", 40),
    ("amd64", 62),
    ("arm64", 183),
    ("riscv64", 243),
    ("loong64", 258),
];

impl ElfMachine {
    /// No ELF file.
    pub const NONE: Self = Self(0);
    /// Bytes from the start of a file that [`read`](Self::read) needs.
    pub(super) const HEAD: usize = 20;

    pub(super) fn read(head: &[u8]) -> Self {
        let (Some(b"\x7fELF"), Some(&order), Some(&[a, b])) = (head.get(..4), head.get(5), head.get(18..20))
        else {
            return Self::NONE;
        };
        match order {
            1 => Self(u16::from_le_bytes([a, b])),
            2 => Self(u16::from_be_bytes([a, b])),
            _ => Self::NONE,
        }
    }

    /// The machine of a platform's architecture (image-spec, `GOARCH`);
    /// `None` for one that is not known here.
    pub fn of_architecture(name: &str) -> Option<Self> {
        ARCHITECTURES.iter().find(|(known, _)| *known == name).map(|(_, machine)| Self(*machine))
    }
}

impl fmt::Display for ElfMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ARCHITECTURES.iter().find(|(_, machine)| *machine == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "ELF machine {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_read_in_the_files_byte_order() {
        let head = |order: u8, machine: [u8; 2]| {
            [&b"\x7fELF\x02"[..], &[order], &[0; 10], &[1, 0], &machine].concat()
        };
        for (head, expected) in [
            (head(1, [62, 0]), "amd64"),
            (head(1, [183, 0]), "arm64"),
            (head(2, [0, 22]), "s390x"),
            (head(1, [0x39, 0x30]), "ELF machine 12345"),
            (head(3, [62, 0]), "ELF machine 0"),
            (head(1, [62, 0])[..19].to_vec(), "ELF machine 0"),
            (b"\x1f\x8b compressed, and long enough".to_vec(), "ELF machine 0"),
            (vec![], "ELF machine 0"),
        ] {
            assert_eq!(ElfMachine::read(&head).to_string(), expected);
        }
        assert_eq!(ElfMachine::of_architecture("arm64"), Some(ElfMachine(183)));
        assert_eq!(ElfMachine::of_architecture("pdp11"), None);
    }
}
