//! Pax extended headers (POSIX pax, "pax Extended Header").
//!
//! In: the data of an `x` or `g` entry: records `LENGTH KEY=VALUE\n`, where
//! the length in decimal counts the whole record. Out: the values that
//! override a header's. Invariant: a key that this reader acts on appears
//! once, has a value, and belongs to one entry; all other keys are ignored.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::error::PaxProblem;
use super::number;
use crate::layer::tree::Xattrs;
use crate::limits::{Bound, Limits};
use crate::text::percent_decoded;

/// libarchive writes base64 without padding, others may not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What an `x` header says about the next entry.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<u32>,
    pub(super) xattrs: Xattrs,
}

/// The keys that this reader acts on.
enum Key<'a> {
    Path,
    Link,
    Size,
    Uid,
    Gid,
    Mtime,
    Charset,
    /// The value is the xattr's.
    Xattr(&'a [u8]),
    /// libarchive's: name percent-encoded, value in base64.
    EncodedXattr(&'a [u8]),
    Sparse,
    Ignored,
}

impl<'a> Key<'a> {
    fn classify(key: &'a [u8]) -> Self {
        match key {
            b"path" => Self::Path,
            b"linkpath" => Self::Link,
            b"size" => Self::Size,
            b"uid" => Self::Uid,
            b"gid" => Self::Gid,
            b"mtime" => Self::Mtime,
            b"hdrcharset" => Self::Charset,
            b"RHT.security.selinux" => Self::Xattr(b"security.selinux"),
            // To drop an ACL would give the access that it takes. The names are
            // those that Linux shows it by, which no rule can allow.
            b"SCHILY.acl.access" => Self::Xattr(b"system.posix_acl_access"),
            b"SCHILY.acl.default" => Self::Xattr(b"system.posix_acl_default"),
            b"SCHILY.acl.ace" => Self::Xattr(b"system.nfs4_acl"),
            // star's and Solaris', which libarchive reads too.
            b"SCHILY.realsize" | b"SUN.holesdata" => Self::Sparse,
            _ if key.starts_with(b"GNU.sparse.") => Self::Sparse,
            _ => match (key.strip_prefix(b"SCHILY.xattr."), key.strip_prefix(b"LIBARCHIVE.xattr.")) {
                (Some(name), _) => Self::Xattr(name),
                (_, Some(name)) => Self::EncodedXattr(name),
                _ => Self::Ignored,
            },
        }
    }
}

impl Pax {
    pub(super) fn parse(data: &[u8], limits: &Limits) -> Result<Self, PaxProblem> {
        let mut pax = Self::default();
        for record in Records(data) {
            let (key, value) = record?;
            pax.set(key, value, limits)?;
        }
        Ok(pax)
    }

    fn set(&mut self, key: &[u8], value: &[u8], limits: &Limits) -> Result<(), PaxProblem> {
        let malformed = || PaxProblem::Value(key.to_vec());
        let id = || u32::try_from(number::decimal(value).map_err(|_| malformed())?).map_err(|_| malformed());
        let repeated = match Key::classify(key) {
            Key::Path => self.path.replace(non_empty(value).ok_or_else(malformed)?).is_some(),
            Key::Link => self.link.replace(non_empty(value).ok_or_else(malformed)?).is_some(),
            Key::Size => self.size.replace(number::decimal(value).map_err(|_| malformed())?).is_some(),
            Key::Uid => self.uid.replace(id()?).is_some(),
            Key::Gid => self.gid.replace(id()?).is_some(),
            Key::Mtime => self.mtime.replace(time(value).ok_or_else(malformed)?).is_some(),
            Key::Xattr(name) => return self.set_xattr(key, (name.to_vec(), value.to_vec()), limits),
            Key::EncodedXattr(name) => {
                let name = percent_decoded(name).ok_or_else(malformed)?;
                let value = BASE64.decode(value).map_err(|_| malformed())?;
                return self.set_xattr(key, (name, value), limits);
            }
            // Both say that names are bytes that nobody converts.
            Key::Charset if matches!(value, b"BINARY" | b"ISO-IR 10646 2000 UTF-8") => false,
            Key::Charset => return Err(malformed()),
            Key::Sparse => return Err(PaxProblem::Sparse(key.to_vec())),
            Key::Ignored => false,
        };
        if repeated { Err(PaxProblem::Repeated(key.to_vec())) } else { Ok(()) }
    }

    /// bsdtar writes each xattr under both keys: the same value twice is fine.
    fn set_xattr(
        &mut self,
        key: &[u8],
        (name, value): (Vec<u8>, Vec<u8>),
        limits: &Limits,
    ) -> Result<(), PaxProblem> {
        let sizes = [(Bound::XattrName, name.len()), (Bound::XattrValue, value.len())];
        for (bound, size) in sizes {
            let limit = |exceeded| PaxProblem::Limit { key: key.to_vec(), exceeded };
            limits.check(bound, size as u64).map_err(limit)?;
        }
        if name.is_empty() || name.iter().any(u8::is_ascii_control) {
            return Err(PaxProblem::Value(key.to_vec()));
        }
        let held = self.xattrs.entry(name).or_insert_with(|| value.clone());
        if *held == value { Ok(()) } else { Err(PaxProblem::Value(key.to_vec())) }
    }
}

/// Checks a `g` header: comments and the like may be there (`git archive`
/// writes one), but nothing that would change entries.
pub(super) fn check_global(data: &[u8]) -> Result<(), PaxProblem> {
    for record in Records(data) {
        let (key, _) = record?;
        if !matches!(Key::classify(key), Key::Ignored) {
            return Err(PaxProblem::Global(key.to_vec()));
        }
    }
    Ok(())
}

struct Records<'a>(&'a [u8]);

impl<'a> Records<'a> {
    fn split_record(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let space = self.0.iter().take(20).position(|&byte| byte == b' ')?;
        let length = usize::try_from(number::decimal(&self.0[..space]).ok()?).ok()?;
        let record = self.0.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|&byte| byte == b'=')?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        if key.is_empty() || key.contains(&0) {
            return None;
        }
        self.0 = &self.0[length..];
        Some((key, value))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), PaxProblem>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let record = self.split_record().ok_or(PaxProblem::Record);
        if record.is_err() {
            self.0 = &[];
        }
        Some(record)
    }
}

/// An empty value would mean "as in the header", which parsers differ on.
fn non_empty(value: &[u8]) -> Option<Vec<u8>> {
    (!value.is_empty()).then(|| value.to_vec())
}

/// Decimal seconds, perhaps with a fraction, which is dropped. Clamped as in
/// headers.
fn time(value: &[u8]) -> Option<u32> {
    let (negative, value) = value.strip_prefix(b"-").map_or((false, value), |value| (true, value));
    let mut parts = value.splitn(2, |&byte| byte == b'.');
    let seconds = number::decimal(parts.next()?).ok()?;
    if !parts.next().is_none_or(|fraction| fraction.iter().all(u8::is_ascii_digit)) {
        return None;
    }
    Some(if negative { 0 } else { u32::try_from(seconds).unwrap_or(u32::MAX) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::tar::fixture::pax_record as record;
    use crate::limits::Exceeded;

    #[test]
    fn records_override_headers() {
        let data = [
            record("path", b"a/b"),
            record("linkpath", b"c\nd=e"),
            record("size", b"8589934592"),
            record("uid", b"4294967295"),
            record("gid", b"7"),
            record("mtime", b"1700000000.123456789"),
            record("hdrcharset", b"BINARY"),
            record("comment", b""),
            record("VENDOR.key", b"\0"),
            record("SCHILY.xattr.user.a", b"x\0y"),
            record("LIBARCHIVE.xattr.user.a", b"eAB5"),
            record("LIBARCHIVE.xattr.user.%62%25", b"eA"),
            record("SCHILY.acl.access", b"user::rw-"),
        ]
        .concat();
        let acl = ("system.posix_acl_access", "user::rw-");
        let xattrs = [acl, ("user.a", "x\0y"), ("user.b%", "x")].map(|(n, v)| (n.into(), v.into()));
        let expected = Pax {
            path: Some(b"a/b".to_vec()),
            link: Some(b"c\nd=e".to_vec()),
            size: Some(1 << 33),
            uid: Some(u32::MAX),
            gid: Some(7),
            mtime: Some(1_700_000_000),
            xattrs: xattrs.into(),
        };
        assert_eq!(Pax::parse(&data, &Limits::default()), Ok(expected));
    }

    #[test]
    fn times_are_clamped() {
        for (value, expected) in [
            (&b"0"[..], Some(0)),
            (b"1.", Some(1)),
            (b"-1.5", Some(0)),
            (b"99999999999", Some(u32::MAX)),
            (b"", None),
            (b".5", None),
            (b"1.5.5", None),
            (b"1e9", None),
            (b"--1", None),
        ] {
            assert_eq!(time(value), expected, "{}", value.escape_ascii());
        }
    }

    #[test]
    fn ambiguous_headers_are_refused() {
        let value = |key: &str| PaxProblem::Value(key.into());
        let sparse = |key: &str| PaxProblem::Sparse(key.into());
        let long = format!("SCHILY.xattr.{}", "x".repeat(256));
        let over = |key: &str, bound: Bound| {
            let exceeded = Exceeded { bound, limit: bound.default() };
            PaxProblem::Limit { key: key.into(), exceeded }
        };
        let twice = |key: &str, a: &[u8], b: &[u8]| [record(key, a), record(key, b)].concat();
        for (data, expected) in [
            (b"9 a=b".to_vec(), PaxProblem::Record),
            (b"6 a=b\nx".to_vec(), PaxProblem::Record),
            (b"5 a=b\n".to_vec(), PaxProblem::Record),
            (b"7 a=b\n".to_vec(), PaxProblem::Record),
            (b"+6 a=b\n".to_vec(), PaxProblem::Record),
            (b"-6 a=b\n".to_vec(), PaxProblem::Record),
            (b" 6 a=b\n".to_vec(), PaxProblem::Record),
            (b"6\ta=b\n".to_vec(), PaxProblem::Record),
            (b"5 abc\n".to_vec(), PaxProblem::Record),
            (b"5 =b\n".to_vec(), PaxProblem::Record),
            (b"0 ".to_vec(), PaxProblem::Record),
            (b"1 ".to_vec(), PaxProblem::Record),
            (b"\0\0\0\0".to_vec(), PaxProblem::Record),
            (b"99999999999999999999 a=b\n".to_vec(), PaxProblem::Record),
            (record("a\0b", b"c"), PaxProblem::Record),
            (record("path", b""), value("path")),
            (record("linkpath", b""), value("linkpath")),
            (record("size", b""), value("size")),
            (record("size", b"+1"), value("size")),
            (record("size", b"-1"), value("size")),
            (record("size", b"1 "), value("size")),
            (record("size", b"9223372036854775808"), value("size")),
            (record("uid", b"4294967296"), value("uid")),
            (record("gid", b"x"), value("gid")),
            (record("mtime", b"now"), value("mtime")),
            (record("hdrcharset", b"EBCDIC"), value("hdrcharset")),
            (record("SCHILY.xattr.", b"x"), value("SCHILY.xattr.")),
            (record("LIBARCHIVE.xattr.a", b"!"), value("LIBARCHIVE.xattr.a")),
            (record("LIBARCHIVE.xattr.a%2", b"eA"), value("LIBARCHIVE.xattr.a%2")),
            (record("LIBARCHIVE.xattr.a%+2", b"eA"), value("LIBARCHIVE.xattr.a%+2")),
            (twice("SCHILY.xattr.a", b"x", b"y"), value("SCHILY.xattr.a")),
            (record("SCHILY.xattr.a", &[0; 65_537]), over("SCHILY.xattr.a", Bound::XattrValue)),
            (record(&long, b""), over(&long, Bound::XattrName)),
            (twice("path", b"a", b"a"), PaxProblem::Repeated(b"path".to_vec())),
            (twice("size", b"1", b"2"), PaxProblem::Repeated(b"size".to_vec())),
            (record("GNU.sparse.major", b"1"), sparse("GNU.sparse.major")),
            (record("GNU.sparse.map", b"0,1"), sparse("GNU.sparse.map")),
            (record("SCHILY.realsize", b"1"), sparse("SCHILY.realsize")),
            (record("SUN.holesdata", b" 0 1"), sparse("SUN.holesdata")),
        ] {
            assert_eq!(Pax::parse(&data, &Limits::default()), Err(expected), "{}", data.escape_ascii());
        }
    }

    #[test]
    fn global_headers_change_nothing() {
        assert_eq!(check_global(&record("comment", b"0123abcd")), Ok(()));
        assert_eq!(check_global(&record("atime", b"1")), Ok(()));
        for key in ["path", "linkpath", "size", "uid", "gid", "mtime", "SCHILY.xattr.a", "GNU.sparse.name"] {
            let expected = Err(PaxProblem::Global(key.into()));
            assert_eq!(check_global(&record(key, b"1")), expected, "{key}");
        }
        assert_eq!(check_global(b"comment"), Err(PaxProblem::Record));
    }
}
