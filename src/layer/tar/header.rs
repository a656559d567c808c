//! The 512 bytes before each entry (POSIX pax, "ustar Interchange Format").
//!
//! ```text
//!   0 name 100 | mode 8 | uid 8 | gid 8 | size 12 | mtime 12 | checksum 8
//! 156 type 1 | linkname 100
//! 257 "ustar\0" "00"  POSIX      "ustar " " \0"  GNU       zeros  V7
//! 265 uname 32 | gname 32 | devmajor 8 | devminor 8
//! 345 prefix 155, in POSIX headers only
//! ```
//! Texts end at a NUL or fill their field. The checksum is the sum of all
//! bytes, the checksum itself taken as spaces.

use super::blocks::BLOCK;
use super::error::Problem;
use super::number::{self, NumberProblem};
use crate::layer::tree::Attributes;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    V7,
    Posix,
    Gnu,
}

#[derive(Debug)]
pub(super) struct Header {
    pub(super) format: Format,
    pub(super) typeflag: u8,
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) attributes: Attributes,
    pub(super) size: u64,
}

impl Header {
    pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Self, Problem> {
        let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
        let own: u64 = block[148..156].iter().map(|&byte| u64::from(byte)).sum();
        if number::unsigned(&block[148..156]) != Ok(sum - own + 8 * u64::from(b' ')) {
            return Err(Problem::Checksum);
        }
        let format = match &block[257..265] {
            b"ustar\x0000" => Format::Posix,
            b"ustar  \0" => Format::Gnu,
            [0, 0, 0, 0, 0, 0, 0, 0] => Format::V7,
            _ => return Err(Problem::Magic),
        };
        let mut name = Vec::new();
        if block[345] != 0 {
            name.extend_from_slice(text(&block[345..500]));
            name.push(b'/');
        }
        // GNU tar once kept times there, and some parsers take them for a prefix.
        if format != Format::Posix && block[345..500].iter().any(|&byte| byte != 0) {
            return Err(match block[156] {
                b'S' => Problem::Sparse,
                kind @ (b'D' | b'M') => Problem::Type(kind),
                _ => Problem::Prefix,
            });
        }
        // What follows is a time in star's headers, and more of the prefix in POSIX'.
        if block[508..] == *b"tar\0" && block[345..476].iter().all(|&byte| byte != 0) {
            return Err(Problem::StarPrefix);
        }
        name.extend_from_slice(text(&block[..100]));
        Ok(Self {
            format,
            typeflag: block[156],
            name,
            link: text(&block[157..257]).to_vec(),
            attributes: attributes(block)?,
            size: number::unsigned(&block[124..136]).map_err(of("the size"))?,
        })
    }
}

fn attributes(block: &[u8; BLOCK]) -> Result<Attributes, Problem> {
    let mode = number::unsigned(&block[100..108]).map_err(of("the mode"))?;
    let id = |field| {
        let id = number::unsigned(field)?;
        u32::try_from(id).map_err(|_| NumberProblem::TooLarge)
    };
    Ok(Attributes {
        // Some writers put the file type in the bits above.
        mode: (mode & 0o7777) as u16,
        uid: id(&block[108..116]).map_err(of("the uid"))?,
        gid: id(&block[116..124]).map_err(of("the gid"))?,
        mtime: number::time(&block[136..148]).map_err(of("the mtime"))?,
    })
}

fn of(field: &'static str) -> impl Fn(NumberProblem) -> Problem {
    move |problem| Problem::Number { field, problem }
}

fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}
