//! Stock zlib, gzip-framed: the only file with foreign function calls.
//!
//! Guarantees the exact bytes of zlib for the parameters sigtool uses, which no port gives. Every call is bounded by
//! the slices it is handed; nothing is kept between calls but zlib's own state.
#![allow(unsafe_code)]
use libz_sys as z;
use std::{ffi::c_int, mem::MaybeUninit};

/// gzip framing (16) with the full window (15).
const GZIP_WINDOW_BITS: c_int = 15 + 16;
/// `gzopen(…, "wb9f")` in sigtool.
const LEVEL: c_int = 9;
const MEM_LEVEL: c_int = 8;

/// zlib refused its input or was used out of order: its return code.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("zlib error {0}")]
pub struct ZlibError(i32);

/// What one call did.
pub(super) struct Step {
    pub(super) consumed: usize,
    pub(super) produced: usize,
    pub(super) ended: bool,
}

/// A running inflate or deflate.
pub(super) struct Stream {
    // Boxed because zlib keeps a pointer back to it and refuses a stream that moved.
    raw: Box<MaybeUninit<z::z_stream>>,
    deflates: bool,
}

impl Stream {
    pub(super) fn inflate() -> Result<Self, ZlibError> {
        Self::new(false)
    }
    pub(super) fn deflate() -> Result<Self, ZlibError> {
        Self::new(true)
    }

    fn new(deflates: bool) -> Result<Self, ZlibError> {
        // All zero is what zlib.h asks for: no input, and null allocators mean malloc.
        let mut raw = Box::new(MaybeUninit::zeroed());
        let size = size_of::<z::z_stream>() as c_int;
        // SAFETY: `raw` points to a zeroed z_stream of the size told, and the version is that of the linked zlib.
        let code = unsafe {
            let version = z::zlibVersion();
            if deflates {
                let strategy = z::Z_FILTERED;
                let method = z::Z_DEFLATED;
                let raw = raw.as_mut_ptr();
                z::deflateInit2_(raw, LEVEL, method, GZIP_WINDOW_BITS, MEM_LEVEL, strategy, version, size)
            } else {
                z::inflateInit2_(raw.as_mut_ptr(), GZIP_WINDOW_BITS, version, size)
            }
        };
        // On an error zlib has freed what it took, so no `Stream` is made whose drop would end it.
        if code == z::Z_OK { Ok(Self { raw, deflates }) } else { Err(ZlibError(code)) }
    }

    /// Moves bytes from `input` to `output`; `finish` says that no input follows this.
    pub(super) fn run(&mut self, input: &[u8], output: &mut [u8], finish: bool) -> Result<Step, ZlibError> {
        let given = input.len().min(z::uInt::MAX as usize);
        let room = output.len().min(z::uInt::MAX as usize);
        let flush = if finish { z::Z_FINISH } else { z::Z_NO_FLUSH };
        let raw = self.raw.as_mut_ptr();
        // SAFETY: `raw` was initialised by `new` and not moved since. The pointers and lengths are those of the two
        // slices, which outlive the call; zlib never writes through `next_in`.
        let (code, left_in, left_out) = unsafe {
            (*raw).next_in = input.as_ptr().cast_mut();
            (*raw).avail_in = given as z::uInt;
            (*raw).next_out = output.as_mut_ptr();
            (*raw).avail_out = room as z::uInt;
            let code = if self.deflates { z::deflate(raw, flush) } else { z::inflate(raw, z::Z_NO_FLUSH) };
            (code, (*raw).avail_in as usize, (*raw).avail_out as usize)
        };
        match code {
            // A buffer error only says that nothing could be done with what was there.
            z::Z_OK | z::Z_STREAM_END | z::Z_BUF_ERROR => Ok(Step {
                consumed: given - left_in,
                produced: room - left_out,
                ended: code == z::Z_STREAM_END,
            }),
            code => Err(ZlibError(code)),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: initialised by `new`, ended only here.
        unsafe {
            if self.deflates {
                z::deflateEnd(self.raw.as_mut_ptr())
            } else {
                z::inflateEnd(self.raw.as_mut_ptr())
            };
        }
    }
}
