//! zstd with bounds.
//!
//! - The context of each thread is made once and used again: making one costs more than compressing a small batch.
//! - Decompression writes at most what the caller allows, whatever the bytes promise.

use std::cell::RefCell;

use zstd::bulk::{Compressor, Decompressor};

/// Samples are many and pass once through the hands of one leader: speed before size.
const LEVEL: i32 = 1;

/// The bytes are no zstd frame, or give another length than was promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotDecompressed;

thread_local! {
    static COMPRESSOR: RefCell<Compressor<'static>> =
        RefCell::new(Compressor::new(LEVEL).expect("the level is in range and nothing else is set"));
    static DECOMPRESSOR: RefCell<Decompressor<'static>> =
        RefCell::new(Decompressor::new().expect("without a dictionary nothing can be refused"));
}

/// Compresses `raw` into the beginning of `room` and says how long the result is; none if it does not fit there.
pub(crate) fn compress_into(raw: &[u8], room: &mut [u8]) -> Option<usize> {
    // The only error of a compression that was given valid parameters is a destination that is too small.
    COMPRESSOR.with_borrow_mut(|compressor| compressor.compress_to_buffer(raw, room)).ok()
}

/// Decompresses one frame that must give exactly `length` bytes; never allocates more than these.
pub(crate) fn decompress(frame: &[u8], length: usize) -> Result<Vec<u8>, NotDecompressed> {
    let mut raw = Vec::with_capacity(length);
    let written = DECOMPRESSOR
        .with_borrow_mut(|decompressor| decompressor.decompress_to_buffer(frame, &mut raw))
        .map_err(|_| NotDecompressed)?;
    if written == length { Ok(raw) } else { Err(NotDecompressed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_longer_than_promised_is_refused() {
        let raw = vec![7; 100_000];
        let mut room = vec![0; 1_000];
        let length = compress_into(&raw, &mut room).expect("one byte repeated is compressed well");
        assert_eq!(decompress(&room[..length], raw.len()), Ok(raw.clone()));
        assert_eq!(decompress(&room[..length], raw.len() - 1), Err(NotDecompressed));
        assert_eq!(decompress(&room[..length], raw.len() + 1), Err(NotDecompressed));
        assert_eq!(decompress(&room[..length - 1], raw.len()), Err(NotDecompressed));
    }

    #[test]
    fn what_does_not_fit_is_not_compressed() {
        let raw: Vec<u8> = (0..=255).collect();
        assert_eq!(compress_into(&raw, &mut [0; 100]), None);
    }
}
