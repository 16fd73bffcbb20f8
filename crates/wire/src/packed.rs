//! Documents that travel inside a command: the canonical plant, and the bundle of files it was written in.
//!
//! A document is one zstd frame beside its version and its length before compression ([`Packed`]). Version 1 of the
//! plant is the JSON of [`Plant`]; version 1 of a bundle is bytes that are not looked into.
//!
//! - At most [`MAX_DOCUMENT`] bytes, checked before anything is allocated.
//! - A plant with a field that this version does not know was written by a newer one, and is not read at all: left out,
//!   it would be another plant here than there.
//! - A plant is packed only if it comes back equal, so that no entry can be committed that nobody can read.

use model::plant::Plant;
use prost::Message as _;

use crate::compress;
use crate::convert::{ConvertError, required};
use crate::proto::log::{Documents, Packed};

/// The longest document, before compression: 64 MiB.
pub const MAX_DOCUMENT: usize = 64 << 20;

const VERSION: u32 = 1;

/// Documents are written once and kept: a little more effort than for samples.
const LEVEL: i32 = 3;

/// Why a document cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// It is longer than [`MAX_DOCUMENT`].
    #[error("the document has {length} bytes, at most {MAX_DOCUMENT} are possible")]
    TooLarge {
        /// Its length.
        length: usize,
    },
    /// It cannot be written as JSON and read again to the same: a number that is not finite, a path that is not
    /// UTF-8.
    #[error("the plant cannot be written down: {0}")]
    NotRepresentable(String),
}

/// Packs bytes.
pub fn pack(document: &[u8]) -> Result<Packed, PackError> {
    if document.len() > MAX_DOCUMENT {
        return Err(PackError::TooLarge { length: document.len() });
    }
    let data = zstd::bulk::compress(document, LEVEL).expect("the destination is as large as the worst case");
    Ok(Packed { version: VERSION, raw_length: document.len() as u64, data: data.into() })
}

/// Unpacks bytes.
pub fn unpack(packed: &Packed) -> Result<Vec<u8>, ConvertError> {
    if packed.version != VERSION {
        return Err(ConvertError::Unknown("the version of a document"));
    }
    let length = usize::try_from(packed.raw_length).ok().filter(|length| *length <= MAX_DOCUMENT);
    let length = length.ok_or(ConvertError::Malformed("the length of a document"))?;
    compress::decompress(&packed.data, length).map_err(|_| ConvertError::Malformed("a compressed document"))
}

/// Packs the canonical plant.
pub fn pack_plant(plant: &Plant) -> Result<Packed, PackError> {
    let json = plant_to_json(plant)?;
    pack(&json)
}

/// Unpacks the canonical plant.
pub fn unpack_plant(packed: &Packed) -> Result<Plant, ConvertError> {
    plant_from_json(&unpack(packed)?).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => ConvertError::Unknown("something in the JSON of a plant"),
        _ => ConvertError::Malformed("the JSON of a plant"),
    })
}

/// Packs a bundle and its plant into the bytes that are staged in parts.
pub fn pack_documents(bundle: &[u8], plant: &Plant) -> Result<Vec<u8>, PackError> {
    let documents = Documents { bundle: Some(pack(bundle)?), plant: Some(pack_plant(plant)?) };
    Ok(documents.encode_to_vec())
}

/// Unpacks what [`pack_documents`] gave.
pub fn unpack_documents(bytes: &[u8]) -> Result<(Vec<u8>, Plant), ConvertError> {
    let documents = Documents::decode(bytes).map_err(|_| ConvertError::Malformed("staged documents"))?;
    // Fields that this version does not know were left out when the message was read.
    if documents.encoded_len() < bytes.len() {
        return Err(ConvertError::Unknown("a field of staged documents"));
    }
    let bundle = unpack(&required(documents.bundle, "a bundle")?)?;
    Ok((bundle, unpack_plant(&required(documents.plant, "a plant")?)?))
}

/// The canonical plant as JSON: the same bytes for equal plants.
pub fn plant_to_json(plant: &Plant) -> Result<Vec<u8>, PackError> {
    let json = serde_json::to_vec(plant).map_err(|error| PackError::NotRepresentable(error.to_string()))?;
    match plant_from_json(&json) {
        Ok(again) if again == *plant => Ok(json),
        Ok(_) => Err(PackError::NotRepresentable("it would not come back the same".into())),
        Err(error) => Err(PackError::NotRepresentable(error.to_string())),
    }
}

/// Reads the canonical plant from JSON.
pub fn plant_from_json(json: &[u8]) -> Result<Plant, serde_json::Error> {
    serde_json::from_slice(json)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::strategies::any_plant;

    proptest! {
        #[test]
        fn documents_come_back(document: Vec<u8>) {
            prop_assert_eq!(unpack(&pack(&document).expect("short")), Ok(document));
        }

        #[test]
        fn plants_come_back(plant in any_plant()) {
            prop_assert_eq!(unpack_plant(&pack_plant(&plant).expect("representable")), Ok(plant));
        }

        #[test]
        fn staged_documents_come_back(bundle: Vec<u8>, plant in any_plant()) {
            let bytes = pack_documents(&bundle, &plant).expect("representable");
            prop_assert_eq!(unpack_documents(&bytes), Ok((bundle, plant)));
        }

        #[test]
        fn hostile_documents_are_refused(version in 0..3_u32, raw_length: u64, data: Vec<u8>) {
            let packed = Packed { version, raw_length, data: data.into() };
            prop_assert!(unpack(&packed).is_err());
        }
    }

    #[test]
    fn a_plant_that_would_not_come_back_is_refused() {
        let mut plant = crate::strategies::scaled_plant(0.1);
        assert!(pack_plant(&plant).is_ok());
        plant = crate::strategies::scaled_plant(f64::NAN);
        assert!(matches!(pack_plant(&plant), Err(PackError::NotRepresentable(_))));
    }

    #[test]
    fn a_document_that_promises_too_much_is_refused_before_it_is_unpacked() {
        let bomb = zstd::bulk::compress(&vec![0; MAX_DOCUMENT + 1], 1).expect("compresses");
        let packed = Packed { version: 1, raw_length: MAX_DOCUMENT as u64 + 1, data: bomb.clone().into() };
        assert_eq!(unpack(&packed), Err(ConvertError::Malformed("the length of a document")));
        let liar = Packed { version: 1, raw_length: 1_000, data: bomb.into() };
        assert_eq!(unpack(&liar), Err(ConvertError::Malformed("a compressed document")));
        assert!(matches!(pack(&vec![0; MAX_DOCUMENT + 1]), Err(PackError::TooLarge { .. })));
    }

    #[test]
    fn a_plant_with_an_unknown_field_anywhere_was_written_by_a_newer_version() {
        let newer = Err(ConvertError::Unknown("something in the JSON of a plant"));
        let json = plant_to_json(&crate::strategies::scaled_plant(0.5)).expect("representable");
        let json = String::from_utf8(json).expect("JSON");
        for known in ["\"cluster\":{", "\"retention\":{", "\"scaling\":{", "\"address\":{"] {
            assert_eq!(json.matches(known).count(), 1, "{known} in {json}");
            let further = json.replace(known, &format!("{known}\"colour\":3,"));
            assert_eq!(unpack_plant(&pack(further.as_bytes()).expect("short")), newer, "{known}");
        }
        let broken = unpack_plant(&pack(b"{").expect("short"));
        assert_eq!(broken, Err(ConvertError::Malformed("the JSON of a plant")));
    }

    #[test]
    fn a_newer_document_is_told_from_a_broken_one() {
        let mut packed = pack(b"x").expect("short");
        packed.version = 2;
        assert_eq!(unpack(&packed), Err(ConvertError::Unknown("the version of a document")));
    }
}
