//! What the writer does not take.

use std::io::{self, Read};

use plywood::layer::squashfs::{Compression, WriteError};
use plywood::layer::tree::{Attributes, Content, Directory, Xattrs};

use super::tree::{default_options, node, options, write_with};

fn finish(root: Directory) -> Result<(), WriteError> {
    write_with(default_options(), |_| Ok(root)).map(drop)
}

fn entry(name: &[u8], content: Content) -> Directory {
    Directory::from([(name.into(), node(Attributes::IMPLIED_DIRECTORY, &Xattrs::new(), content))])
}

fn symlink(target: &[u8]) -> Content {
    Content::Symlink(target.into())
}

#[test]
fn names_that_no_file_system_has_are_refused() {
    for name in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0b", &[b'n'; 256]] {
        let inner = entry(name, symlink(b"target"));
        let error = finish(entry(b"outer", Content::Directory(inner))).unwrap_err();
        assert!(matches!(error, WriteError::Name { .. }), "{error}");
        assert!(error.to_string().starts_with("`outer/"), "{error}");
    }
}

#[test]
fn targets_that_no_symlink_has_are_refused() {
    for target in [&b""[..], b"a\0b", &[b't'; 4096]] {
        let error = finish(entry(b"link", symlink(target))).unwrap_err();
        assert!(matches!(error, WriteError::Target { .. }), "{error}");
    }
}

#[test]
fn other_kinds_of_inode_are_refused() {
    for content in [Content::Device, Content::Fifo, Content::HardLink((*b"file").into())] {
        let error = finish(entry(b"special", content)).unwrap_err();
        assert_eq!(error.to_string(), "`special` is not a directory, file or symlink");
    }
}

#[test]
fn content_of_another_image_is_refused() {
    let mut foreign = None;
    write_with(default_options(), |writer| {
        foreign = Some(writer.add_file(1, &mut &b"x"[..])?);
        Ok(Directory::new())
    })
    .map(drop)
    .unwrap();
    let error = finish(entry(b"file", Content::File(foreign.unwrap()))).unwrap_err();
    assert_eq!(error.to_string(), "content of `file` was not added to this image");
}

#[test]
fn attributes_that_squashfs_cannot_store_are_refused() {
    let xattrs = Xattrs::from([(b"system.posix_acl_access".to_vec(), b"acl".to_vec())]);
    let acl = node(Attributes::IMPLIED_DIRECTORY, &xattrs, symlink(b"target"));
    let error = finish(Directory::from([((*b"link").into(), acl)])).unwrap_err();
    let expected = "extended attribute `system.posix_acl_access` of `link` cannot be stored in squashfs";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn content_has_the_size_it_was_said_to_have() {
    let content = vec![1; 300_000];
    for (size, expected) in [
        (300_000, None),
        (300_001, Some("content ends after 300000 of 300001 bytes")),
        (u64::MAX, Some("content ends after 300000 of 18446744073709551615 bytes")),
        (299_999, Some("content is longer than its 299999 bytes")),
        (262_144, Some("content is longer than its 262144 bytes")),
        (0, Some("content is longer than its 0 bytes")),
    ] {
        let result = write_with(default_options(), |writer| {
            writer.add_file(size, &mut content.as_slice()).map(|_| Directory::new())
        });
        assert_eq!(result.err().map(|error| error.to_string()).as_deref(), expected);
    }
}

/// Fails in the middle, after an interruption that is none of our business.
struct Failing(u32);

impl Read for Failing {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.0 += 1;
        match self.0 {
            1 => Err(io::ErrorKind::Interrupted.into()),
            2 => Ok(room.len().min(1000)),
            _ => Err(io::Error::other("the line is dead")),
        }
    }
}

#[test]
fn a_reader_that_fails_is_named_as_the_source() {
    let result = write_with(default_options(), |writer| {
        writer.add_file(5000, &mut Failing(0)).map(|_| Directory::new())
    });
    let Err(error) = result else { panic!("the content cannot have been read") };
    assert_eq!(error.to_string(), "cannot read content at byte 1000");
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "the line is dead");
}

#[test]
fn options_outside_the_format_are_refused() {
    let zstd = Compression::default();
    for (options, expected) in [
        (options(zstd, 2048), "block size 2048 is not a power of two from 4096 to 1048576"),
        (options(zstd, 2 << 20), "block size 2097152 is not a power of two from 4096 to 1048576"),
        (options(zstd, 5000), "block size 5000 is not a power of two from 4096 to 1048576"),
        (options(zstd, 0), "block size 0 is not a power of two from 4096 to 1048576"),
        (options(Compression::Zstd { level: 23 }, 4096), "zstd has no compression level 23"),
        (options(Compression::Gzip { level: 0 }, 4096), "gzip has no compression level 0"),
    ] {
        let error = write_with(options, |_| Ok(Directory::new())).map(drop).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}
