//! The bundle: the files of a plant document, byte for byte, as one thing.
//!
//! Owns their names and the packed form that is stored and sent. Knows nothing of what is in them, does not compress.
//!
//! - A name is relative, with `/` between its parts, and cannot leave the folder of the bundle.
//! - One bundle has one packed form: files are in the order of their names.

use std::collections::BTreeMap;

/// Version of the packed form: a byte in front of everything.
const FORMAT: u8 = 1;

/// The files of a plant document: [`Bundle::ROOT`] and what it refers to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bundle {
    files: BTreeMap<String, Vec<u8>>,
}

/// Why a bundle cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// A name that leaves the folder, or is none.
    #[error("expected a relative file name inside the folder of plant.toml, found {0:?}")]
    Name(String),
    /// Two files of one name.
    #[error("two files are named {0:?}")]
    Twice(String),
    /// More than [`Bundle::MAX_BYTES`] or [`Bundle::MAX_FILES`].
    #[error("expected at most {} MiB in {} files", Bundle::MAX_BYTES >> 20, Bundle::MAX_FILES)]
    TooLarge,
    /// Packed by a version that this one does not know.
    #[error("packed in format {0}, which this version does not know")]
    UnknownFormat(u8),
    /// Not a packed bundle, or not all of it.
    #[error("the packed bundle is damaged at byte {0}")]
    Damaged(usize),
}

impl Bundle {
    /// Name of the file that describes the plant.
    pub const ROOT: &'static str = "plant.toml";
    /// Bytes of all files together at most.
    pub const MAX_BYTES: usize = 64 << 20;
    /// Number of files at most.
    pub const MAX_FILES: usize = 1_000;

    /// A bundle of the plant document alone.
    pub fn of_document(text: impl Into<Vec<u8>>) -> Self {
        Self { files: BTreeMap::from([(Self::ROOT.to_owned(), text.into())]) }
    }

    /// Adds a file; a `./` in front of the name is dropped.
    pub fn insert(&mut self, name: &str, bytes: impl Into<Vec<u8>>) -> Result<(), BundleError> {
        let bytes = bytes.into();
        let name = normal_name(name).ok_or_else(|| BundleError::Name(name.to_owned()))?;
        if self.files.contains_key(name) {
            return Err(BundleError::Twice(name.to_owned()));
        }
        if self.files.len() >= Self::MAX_FILES || self.bytes().saturating_add(bytes.len()) > Self::MAX_BYTES {
            return Err(BundleError::TooLarge);
        }
        self.files.insert(name.to_owned(), bytes);
        Ok(())
    }

    /// The bytes of a file; a `./` in front of the name is dropped.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.files.get(normal_name(name)?).map(Vec::as_slice)
    }

    /// Names and bytes of all files, in the order of their names.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
    }

    /// Bytes of all files together.
    pub fn bytes(&self) -> usize {
        self.files.values().map(Vec::len).sum()
    }

    /// The bundle as one byte string: the format (1 byte), the number of files, then for each the length of its name,
    /// the name, the length of its bytes, the bytes. Numbers are unsigned 32 bits, little-endian.
    pub fn pack(&self) -> Vec<u8> {
        let mut packed = vec![FORMAT];
        put_number(&mut packed, self.files.len());
        for (name, bytes) in &self.files {
            put_number(&mut packed, name.len());
            packed.extend_from_slice(name.as_bytes());
            put_number(&mut packed, bytes.len());
            packed.extend_from_slice(bytes);
        }
        packed
    }

    /// Reads what [`Bundle::pack`] wrote, and nothing else: no bytes behind it, no other order of files.
    pub fn unpack(packed: &[u8]) -> Result<Self, BundleError> {
        let mut rest = Unpacker { packed, at: 0 };
        match rest.take(1)? {
            [FORMAT] => {}
            other => return Err(BundleError::UnknownFormat(other[0])),
        }
        let mut bundle = Self::default();
        for _ in 0..rest.number()? {
            let start = rest.at;
            let length = rest.number()?;
            let name = std::str::from_utf8(rest.take(length)?).map_err(|_| BundleError::Damaged(start))?;
            let in_order = bundle.files.last_key_value().is_none_or(|(last, _)| last.as_str() < name);
            if !in_order || normal_name(name) != Some(name) {
                return Err(BundleError::Damaged(start));
            }
            let length = rest.number()?;
            bundle.insert(name, rest.take(length)?)?;
        }
        if rest.at == packed.len() { Ok(bundle) } else { Err(BundleError::Damaged(rest.at)) }
    }
}

/// The name under which a file is kept, if it stays inside the folder.
pub(super) fn normal_name(name: &str) -> Option<&str> {
    let name = name.strip_prefix("./").unwrap_or(name);
    let sound = |part: &str| {
        !matches!(part, "" | "." | "..") && !part.contains(|c: char| c.is_control() || c == '\\' || c == ':')
    };
    (name.len() <= 255 && name.split('/').all(sound)).then_some(name)
}

fn put_number(packed: &mut Vec<u8>, number: usize) {
    let number = u32::try_from(number).expect("a bundle is bounded when files are added");
    packed.extend_from_slice(&number.to_le_bytes());
}

struct Unpacker<'a> {
    packed: &'a [u8],
    at: usize,
}

impl<'a> Unpacker<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], BundleError> {
        let end = self.at.checked_add(count).ok_or(BundleError::Damaged(self.at))?;
        let taken = self.packed.get(self.at..end).ok_or(BundleError::Damaged(self.at))?;
        self.at = end;
        Ok(taken)
    }

    fn number(&mut self) -> Result<usize, BundleError> {
        let at = self.at;
        let bytes = self.take(4)?.try_into().map_err(|_| BundleError::Damaged(at))?;
        usize::try_from(u32::from_le_bytes(bytes)).map_err(|_| BundleError::Damaged(at))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn any_bundle()(
            files in proptest::collection::btree_map("[a-z]{1,3}(/[a-zä]{1,3}){0,2}", any::<Vec<u8>>(), 0..5),
        ) -> Bundle {
            Bundle { files }
        }
    }

    proptest! {
        #[test]
        fn a_bundle_survives_packing(bundle in any_bundle()) {
            prop_assert_eq!(Bundle::unpack(&bundle.pack()), Ok(bundle));
        }

        #[test]
        fn a_shortened_bundle_is_refused(bundle in any_bundle(), cut: prop::sample::Index) {
            let packed = bundle.pack();
            let cut = cut.index(packed.len());
            prop_assert!(Bundle::unpack(&packed[..cut]).is_err());
        }

        #[test]
        fn what_unpacks_packs_to_the_same_bytes(mut packed in any_bundle().prop_map(|b| b.pack()), at: prop::sample::Index, byte: u8) {
            let at = at.index(packed.len());
            packed[at] = byte;
            if let Ok(bundle) = Bundle::unpack(&packed) {
                prop_assert_eq!(bundle.pack(), packed);
            }
        }
    }

    #[test]
    fn a_name_cannot_leave_the_folder() {
        let mut bundle = Bundle::default();
        for name in ["", ".", "..", "/etc/passwd", "../x", "a/../../x", "a//b", "a\\b", "c:x", "a/", "a\nb"] {
            assert_eq!(bundle.insert(name, *b""), Err(BundleError::Name(name.to_owned())), "{name:?}");
        }
        bundle.insert("./lists/a.csv", *b"x").expect("inside");
        assert_eq!(bundle.get("lists/a.csv"), Some(&b"x"[..]));
        assert_eq!(bundle.insert("lists/a.csv", *b""), Err(BundleError::Twice("lists/a.csv".into())));
    }

    #[test]
    fn a_newer_format_is_named() {
        assert_eq!(Bundle::unpack(&[2, 0, 0, 0, 0]), Err(BundleError::UnknownFormat(2)));
        assert_eq!(Bundle::unpack(&[1, 0, 0, 0, 0, 9]), Err(BundleError::Damaged(5)));
    }

    #[test]
    fn a_bundle_is_bounded() {
        let mut bundle = Bundle::of_document(vec![b'#'; Bundle::MAX_BYTES]);
        assert_eq!(bundle.insert("a.csv", *b"x"), Err(BundleError::TooLarge));
    }
}
