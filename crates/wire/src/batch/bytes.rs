//! Reading and writing the small parts of a body: fixed bytes, varints, zigzag.
//!
//! - A [`Reader`] never reads beyond its end and never allocates.

use super::DecodeError;

/// Appends an unsigned integer as LEB128.
#[inline]
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Bytes that [`put_varint`] appends.
#[inline]
pub(super) fn varint_len(value: u64) -> usize {
    // Nine sixty-fourths is a seventh for every number of bits that a u64 can have.
    ((64 - (value | 1).leading_zeros() as usize) * 9 + 64) / 64
}

/// Small numbers of either sign as small numbers.
#[inline]
pub(super) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// The inverse of [`zigzag`].
#[inline]
pub(super) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// What remains to be read of a body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

const CUT_SHORT: DecodeError = DecodeError::Corrupt("it ends too early");

impl<'a> Reader<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(CUT_SHORT)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, DecodeError> {
        let (first, rest) = self.rest.split_first().ok_or(CUT_SHORT)?;
        self.rest = rest;
        Ok(*first)
    }

    #[inline]
    pub(super) fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0;
        for (index, byte) in self.rest.iter().take(10).enumerate() {
            // The tenth byte has room for the highest bit only.
            if index == 9 && *byte > 1 {
                return Err(DecodeError::Corrupt("a number of more than 64 bits"));
            }
            value |= u64::from(byte & 0x7F) << (7 * index);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[index + 1..];
                return Ok(value);
            }
        }
        Err(CUT_SHORT)
    }

    pub(super) fn zigzag(&mut self) -> Result<i64, DecodeError> {
        self.varint().map(unzigzag)
    }

    /// A number of things of which at most `limit` are possible.
    pub(super) fn count(&mut self, limit: usize) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.varint()?).ok().filter(|count| *count <= limit);
        count.ok_or(DecodeError::Corrupt("a count is too high"))
    }

    /// Refuses what follows the end.
    pub(super) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Corrupt("something follows its end")) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn varints_come_back_and_have_the_length_foretold(value: u64, shift in 0..64_u32) {
            let value = value >> shift;
            let mut out = Vec::new();
            put_varint(&mut out, value);
            prop_assert_eq!(out.len(), varint_len(value));
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.varint(), Ok(value));
            prop_assert_eq!(reader.finish(), Ok(()));
        }

        #[test]
        fn signed_numbers_come_back(value: i64) {
            prop_assert_eq!(unzigzag(zigzag(value)), value);
        }
    }

    #[test]
    fn a_number_of_more_than_64_bits_is_refused() {
        assert!(Reader::new(&[0xFF; 10]).varint().is_err());
        assert!(Reader::new(&[0x80; 3]).varint().is_err());
        let mut highest = [0xFF; 10];
        highest[9] = 1;
        assert_eq!(Reader::new(&highest).varint(), Ok(u64::MAX));
    }
}
