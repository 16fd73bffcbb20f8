//! A column of numbers, each as the `width` low bytes of a `u64`: byte planes, planes of differences, or varints.
//!
//! - Choosing the mode is a guess about compression; every mode gives back the same numbers.

use super::DecodeError;
use super::bytes::{Reader, put_varint, varint_len};

const PLANES: u8 = 0;
const DELTA_PLANES: u8 = 1;
const DELTA_VARINTS: u8 = 2;

/// Writes a column of at least one number.
pub(super) fn write(numbers: &[u64], width: usize, will_be_compressed: bool, out: &mut Vec<u8>) {
    let Some((&first, _)) = numbers.split_first() else { return };
    let deltas: Vec<u64> = numbers.windows(2).map(|pair| zigzag_delta(pair[0], pair[1], width)).collect();
    let plain = planes_len(numbers, width);
    let delta_planes = width + planes_len(&deltas, width);
    let mode = if will_be_compressed && numbers.len() > 8 {
        // Bytes that are zero in most differences cost next to nothing once compressed. Without a clear gain the
        // numbers themselves are better: their highest bytes often take few values.
        let significant: usize = deltas.iter().map(|delta| significant_bytes(*delta)).sum();
        let compressed = delta_planes.min(width + significant);
        if compressed * 16 < plain * 15 { DELTA_PLANES } else { PLANES }
    } else {
        let varints = deltas.iter().map(|delta| varint_len(*delta)).sum::<usize>();
        let varints = varints + varint_len(zigzag_delta(0, first, width));
        match plain.min(delta_planes).min(varints) {
            least if least == varints => DELTA_VARINTS,
            least if least == plain => PLANES,
            _ => DELTA_PLANES,
        }
    };
    out.push(mode);
    match mode {
        PLANES => put_planes(numbers, width, out),
        DELTA_PLANES => {
            out.extend_from_slice(&first.to_le_bytes()[..width]);
            put_planes(&deltas, width, out);
        }
        _ => {
            put_varint(out, zigzag_delta(0, first, width));
            deltas.iter().for_each(|delta| put_varint(out, *delta));
        }
    }
}

/// Reads a column of `count` numbers, at least one.
pub(super) fn read(reader: &mut Reader<'_>, count: usize, width: usize) -> Result<Vec<u64>, DecodeError> {
    match reader.byte()? {
        PLANES => read_planes(reader, count, width),
        DELTA_PLANES => {
            let first = reader.take(width)?;
            let mut number = from_le(first);
            let deltas = read_planes(reader, count - 1, width)?;
            let further = deltas.into_iter().map(|delta| {
                number = plus_delta(number, delta, width);
                number
            });
            Ok(std::iter::once(from_le(first)).chain(further).collect())
        }
        DELTA_VARINTS => {
            let mut number = 0;
            let mut numbers = Vec::with_capacity(count);
            for _ in 0..count {
                let delta = reader.varint()?;
                if delta > mask(width) {
                    return Err(DecodeError::Corrupt("a difference is wider than its type"));
                }
                number = plus_delta(number, delta, width);
                numbers.push(number);
            }
            Ok(numbers)
        }
        _ => Err(DecodeError::Corrupt("the mode of a column of numbers")),
    }
}

fn mask(width: usize) -> u64 {
    u64::MAX >> (64 - 8 * width)
}

fn from_le(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The difference, wrapped to the width and zigzagged within it.
#[inline]
fn zigzag_delta(before: u64, after: u64, width: usize) -> u64 {
    let unused = 64 - 8 * width as u32;
    let delta = ((after.wrapping_sub(before) << unused) as i64) >> unused;
    ((delta << 1) ^ (delta >> 63)) as u64 & mask(width)
}

#[inline]
fn plus_delta(before: u64, delta: u64, width: usize) -> u64 {
    let delta = (delta >> 1) ^ (delta & 1).wrapping_neg();
    before.wrapping_add(delta) & mask(width)
}

fn significant_bytes(number: u64) -> usize {
    (64 - number.leading_zeros() as usize).div_ceil(8)
}

/// Bit k says that the k-th bytes of all numbers are equal.
fn equal_planes(numbers: &[u64], width: usize) -> u8 {
    let first = numbers.first().copied().unwrap_or(0);
    let differing = numbers.iter().fold(0, |differing, number| differing | (number ^ first));
    (0..width).filter(|k| (differing >> (8 * k)) as u8 == 0).fold(0, |mask, k| mask | 1 << k)
}

fn planes_len(numbers: &[u64], width: usize) -> usize {
    let equal = equal_planes(numbers, width).count_ones() as usize;
    1 + if numbers.is_empty() { 0 } else { equal + (width - equal) * numbers.len() }
}

fn put_planes(numbers: &[u64], width: usize, out: &mut Vec<u8>) {
    let equal = equal_planes(numbers, width);
    out.push(equal);
    for k in 0..width {
        let stored = if equal & 1 << k == 0 { numbers } else { &numbers[..numbers.len().min(1)] };
        out.extend(stored.iter().map(|number| (number >> (8 * k)) as u8));
    }
}

fn read_planes(reader: &mut Reader<'_>, count: usize, width: usize) -> Result<Vec<u64>, DecodeError> {
    let equal = reader.byte()?;
    if u64::from(equal) >> width != 0 {
        return Err(DecodeError::Corrupt("the mask of a column of numbers"));
    }
    // All planes are found before anything is allocated, except those that are a single byte.
    let mut planes = [&[][..]; 8];
    for (k, plane) in planes.iter_mut().enumerate().take(width) {
        *plane = reader.take(if equal & 1 << k == 0 { count } else { count.min(1) })?;
    }
    let mut numbers = vec![0; count];
    for (k, plane) in planes.into_iter().enumerate().take(width) {
        match *plane {
            [byte] => numbers.iter_mut().for_each(|number| *number |= u64::from(byte) << (8 * k)),
            _ => numbers
                .iter_mut()
                .zip(plane)
                .for_each(|(number, byte)| *number |= u64::from(*byte) << (8 * k)),
        }
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_column() -> impl Strategy<Value = (usize, Vec<u64>)> {
        (prop_oneof![Just(2_usize), Just(4), Just(8)], 0..64_u32, 0..64_u32, any::<u64>()).prop_flat_map(
            |(width, shift, spread, base)| {
                let numbers = proptest::collection::vec(any::<u64>(), 1..80);
                numbers.prop_map(move |numbers| {
                    let near = |number: u64| (base >> shift).wrapping_add(number >> spread) & mask(width);
                    (width, numbers.into_iter().map(near).collect())
                })
            },
        )
    }

    proptest! {
        #[test]
        fn numbers_come_back_in_every_mode((width, numbers) in any_column(), will_be_compressed: bool) {
            let mut out = Vec::new();
            write(&numbers, width, will_be_compressed, &mut out);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(read(&mut reader, numbers.len(), width), Ok(numbers));
            prop_assert_eq!(reader.finish(), Ok(()));
        }

        #[test]
        fn a_column_that_is_not_compressed_is_never_larger_than_its_planes((width, numbers) in any_column()) {
            let mut out = Vec::new();
            write(&numbers, width, false, &mut out);
            prop_assert!(out.len() <= 2 + width * numbers.len(), "{} bytes", out.len());
        }
    }

    #[test]
    fn each_mode_is_taken_where_it_is_best() {
        let mode = |numbers: &[u64], compressed| {
            let mut out = Vec::new();
            write(numbers, 4, compressed, &mut out);
            out[0]
        };
        let scattered: Vec<u64> =
            (1..=100_u64).map(|n| (n * n).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32).collect();
        let counting: Vec<u64> = (0..100_u64).map(|n| 1_000_000 + n * 300).collect();
        let alike: Vec<u64> = (0..100_u64).map(|n| 0x4200_0000 + (n * 77) % 256).collect();
        assert_eq!(mode(&scattered, false), PLANES);
        assert_eq!(mode(&scattered, true), PLANES);
        assert_eq!(mode(&counting, true), DELTA_PLANES);
        assert_eq!(mode(&alike[..20], false), PLANES);
        assert_eq!(mode(&[5, 9, 2], false), DELTA_VARINTS);
    }
}
