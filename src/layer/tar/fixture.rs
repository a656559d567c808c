//! Archives for tests, good and bad, written byte by byte.
//!
//! Knows nothing of the reader, so that the two can be compared.

/// An archive being written.
#[derive(Clone, Default)]
pub struct Tar(Vec<u8>);

/// A header being written; fields are kept as bytes, so that any of them can
/// be wrong.
#[derive(Clone)]
pub struct Header([u8; 512]);

impl Header {
    /// A POSIX header, mode 0644, owned by root, at the time 0.
    pub fn new(typeflag: u8, name: &[u8]) -> Self {
        let header = Self([0; 512]).bytes(0, &name[..name.len().min(100)]);
        header
            .octal(100, 8, 0o644)
            .octal(108, 8, 0)
            .octal(116, 8, 0)
            .octal(124, 12, 0)
            .octal(136, 12, 0)
            .bytes(156, &[typeflag])
            .bytes(257, b"ustar\x0000")
    }

    pub fn bytes(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn octal(self, at: usize, width: usize, value: u64) -> Self {
        self.bytes(at, format!("{value:0width$o}\0", width = width - 1).as_bytes())
    }

    pub fn mode(self, mode: u16) -> Self {
        self.octal(100, 8, mode.into())
    }

    pub fn size(self, size: u64) -> Self {
        self.octal(124, 12, size)
    }

    pub fn mtime(self, mtime: u32) -> Self {
        self.octal(136, 12, mtime.into())
    }

    pub fn link(self, target: &[u8]) -> Self {
        self.bytes(157, target)
    }

    pub fn gnu(self) -> Self {
        self.bytes(257, b"ustar  \0")
    }

    pub fn v7(self) -> Self {
        self.bytes(257, &[0; 8])
    }

    fn finish(self) -> [u8; 512] {
        let header = self.bytes(148, b"        ");
        let sum: u64 = header.0.iter().map(|&byte| u64::from(byte)).sum();
        header.bytes(148, format!("{sum:06o}\0 ").as_bytes()).0
    }
}

impl Tar {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn header(self, header: Header) -> Self {
        self.raw(&header.finish())
    }

    /// Bytes and the padding behind them.
    pub fn data(self, data: &[u8]) -> Self {
        let padding = data.len().wrapping_neg() % 512;
        self.raw(data).raw(&vec![0; padding])
    }

    /// A header whose size is that of the data.
    pub fn entry(self, header: Header, data: &[u8]) -> Self {
        self.header(header.size(data.len() as u64)).data(data)
    }

    /// A file; a name that does not fit gets a pax header.
    pub fn file(self, name: &str, data: &[u8]) -> Self {
        self.file_with(name, 0o644, data)
    }

    pub fn file_with(self, name: &str, mode: u16, data: &[u8]) -> Self {
        self.long(name).entry(Header::new(b'0', name.as_bytes()).mode(mode), data)
    }

    pub fn directory(self, name: &str) -> Self {
        self.directory_with(name, 0o755)
    }

    pub fn directory_with(self, name: &str, mode: u16) -> Self {
        self.long(name).header(Header::new(b'5', name.as_bytes()).mode(mode))
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.long(name).header(Header::new(b'2', name.as_bytes()).mode(0o777).link(target.as_bytes()))
    }

    pub fn hard_link(self, name: &str, target: &str) -> Self {
        self.long(name).header(Header::new(b'1', name.as_bytes()).link(target.as_bytes()))
    }

    fn long(self, name: &str) -> Self {
        if name.len() > 100 { self.pax(&[("path", name.as_bytes())]) } else { self }
    }

    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let data: Vec<u8> = records.iter().flat_map(|(key, value)| pax_record(key, value)).collect();
        self.entry(Header::new(b'x', b"PaxHeaders/x"), &data)
    }

    /// A GNU long name (`L`) or link (`K`), with its final NUL.
    pub fn gnu_long(self, typeflag: u8, name: &[u8]) -> Self {
        self.entry(Header::new(typeflag, b"././@LongLink").gnu(), &[name, b"\0"].concat())
    }

    /// The archive without the zero blocks at its end.
    pub fn unfinished(self) -> Vec<u8> {
        self.0
    }

    pub fn finish(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }
}

/// `LENGTH KEY=VALUE\n`, where the length counts its own digits.
pub fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}
