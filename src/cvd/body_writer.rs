//! Writes the body of a CVD byte for byte as Talos' sigtool does.
//!
//! Guarantees that equal members in equal order give equal bytes: bare tar headers, no end-of-archive blocks, stock
//! zlib with sigtool's parameters. Only the MD5 in Talos' header tells whether they are Talos' bytes.
use super::{
    container::{BLOCK_BYTES, is_member_name, padding},
    zlib::Stream,
};
use std::io::{self, Write};

/// The largest member: eleven octal digits.
const MAX_MEMBER_BYTES: u64 = 0o77_777_777_777;
const BUFFER_BYTES: usize = 64 << 10;
/// The field of a tar header that holds its check sum, which counts as eight spaces in the sum.
const CHECKSUM: std::ops::Range<usize> = 148..156;

/// Writes members one after the other into a tar, gzip-compressed or, for a CLD, raw.
pub struct BodyWriter<W> {
    out: W,
    /// None where the tar stays raw.
    stream: Option<Stream>,
    buffer: Box<[u8]>,
    /// Content bytes of the current member still to come.
    left: u64,
    padding: u64,
}

impl<W: Write> BodyWriter<W> {
    /// Starts a body; nothing is written before the first member.
    pub fn new(out: W) -> io::Result<Self> {
        let stream = Stream::deflate().map_err(io::Error::other)?;
        Ok(Self { stream: Some(stream), ..Self::raw(out) })
    }

    /// Starts the body of a CLD, which is the bare tar.
    pub fn raw(out: W) -> Self {
        Self { out, stream: None, buffer: vec![0; BUFFER_BYTES].into_boxed_slice(), left: 0, padding: 0 }
    }

    /// Starts a member, whose content must follow in full.
    pub fn member(&mut self, name: &str, size: u64) -> io::Result<()> {
        self.end_member()?;
        if !is_member_name(name) || size > MAX_MEMBER_BYTES {
            let message = format!("no tar member can be named {name:?} and have {size} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        self.put(&tar_header(name, size), false)?;
        (self.left, self.padding) = (size, padding(size));
        Ok(())
    }

    /// Ends the body and hands back what it was written to.
    pub fn finish(mut self) -> io::Result<W> {
        self.end_member()?;
        self.put(&[], true)?;
        Ok(self.out)
    }

    fn end_member(&mut self) -> io::Result<()> {
        if self.left > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "member is shorter than announced"));
        }
        let padding = std::mem::take(&mut self.padding) as usize;
        self.put(&[0; BLOCK_BYTES][..padding], false)
    }

    fn put(&mut self, mut input: &[u8], finish: bool) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return self.out.write_all(input) };
        loop {
            let step = stream.run(input, &mut self.buffer, finish).map_err(io::Error::other)?;
            self.out.write_all(&self.buffer[..step.produced])?;
            input = &input[step.consumed..];
            let done = if finish { step.ended } else { input.is_empty() && step.produced < BUFFER_BYTES };
            if done {
                return Ok(());
            }
        }
    }
}

/// Writes content of the current member; more than was announced is refused.
impl<W: Write> Write for BodyWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.left.checked_sub(bytes.len() as u64) {
            Some(left) => self.left = left,
            None => {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "member is longer than announced"));
            }
        }
        self.put(bytes, false)?;
        Ok(bytes.len())
    }
    /// Does nothing: a flush would change zlib's output.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn tar_header(name: &str, size: u64) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    block[..name.len()].copy_from_slice(name.as_bytes());
    let size = format!("{size:o}");
    block[124..124 + size.len()].copy_from_slice(size.as_bytes());
    let sum =
        block.iter().map(|&byte| u32::from(byte)).sum::<u32>() + CHECKSUM.len() as u32 * u32::from(b' ');
    let sum = format!("{sum:06o}");
    block[CHECKSUM.start..CHECKSUM.start + sum.len()].copy_from_slice(sum.as_bytes());
    block
}
