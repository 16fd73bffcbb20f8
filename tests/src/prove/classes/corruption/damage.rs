//! What a file is to a node, and how its bytes are damaged: what follows is always other than what was before.

use std::path::Path;

use rand::Rng as _;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;

/// What disks lose at one time.
const PAGE: usize = 4096;
/// Bytes in which bits flip, at most.
const FLIPS: usize = 4;

/// What a part of a data directory is to its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// Entries or rows, sorted, in a file that is never written again.
    Table,
    /// What was committed last.
    WriteAheadLog,
    /// Which tables and logs there are.
    Manifest,
    /// Which manifest counts.
    Current,
    /// How the database was opened.
    Options,
    /// A number of the database.
    Identity,
    /// All of the database.
    Database,
    /// The ledger at one position.
    Checkpoint,
    /// A part of checkpoints.
    Page,
    /// The longest lease that was granted.
    Lease,
    /// What the node has promised.
    Floor,
    /// Whose directory it is.
    Format,
    /// That there was a database.
    Created,
    /// Room for a full disk.
    Reserve,
}

/// What becomes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Damage {
    /// Some bits are others.
    Flipped,
    /// Its end is missing.
    Truncated,
    /// One page holds nothing but zeros.
    Zeroed,
    /// It is gone.
    Deleted,
    /// It is what it once was.
    Restored,
}

/// A damaged file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Spoilt {
    /// It holds this.
    Bytes(Vec<u8>),
    /// It is not there.
    Gone,
}

impl Part {
    /// What a file is, by where it lies below the data directory; `None` if nothing depends on it.
    pub(super) fn of(file: &Path) -> Option<Self> {
        let name = file.file_name()?.to_str()?;
        let extension = file.extension().and_then(|extension| extension.to_str());
        match (name, extension) {
            (_, Some("sst")) => Some(Self::Table),
            (_, Some("log")) => Some(Self::WriteAheadLog),
            ("CURRENT", _) => Some(Self::Current),
            ("IDENTITY", _) => Some(Self::Identity),
            ("lease", _) => Some(Self::Lease),
            ("floor", _) => Some(Self::Floor),
            ("format", _) => Some(Self::Format),
            ("created", _) => Some(Self::Created),
            ("reserve", _) => Some(Self::Reserve),
            _ if name.starts_with("MANIFEST-") => Some(Self::Manifest),
            _ if name.starts_with("OPTIONS-") => Some(Self::Options),
            _ if name.starts_with("checkpoint-") => Some(Self::Checkpoint),
            _ if name.starts_with("page-") => Some(Self::Page),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::WriteAheadLog => "write-ahead log",
            Self::Manifest => "manifest",
            Self::Current => "name of the manifest",
            Self::Options => "options of the database",
            Self::Identity => "identity of the database",
            Self::Database => "database",
            Self::Checkpoint => "checkpoint",
            Self::Page => "page of checkpoints",
            Self::Lease => "lease",
            Self::Floor => "floor file",
            Self::Format => "format",
            Self::Created => "mark of the database",
            Self::Reserve => "reserve",
        }
    }
}

impl Damage {
    const ALL: [Self; 5] = [Self::Flipped, Self::Truncated, Self::Zeroed, Self::Deleted, Self::Restored];

    /// All of them, in the order in which they are tried: not every file can be damaged in every way.
    pub(super) fn order(random: &mut SmallRng) -> [Self; 5] {
        let mut order = Self::ALL;
        order.shuffle(random);
        order
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Flipped => "bits flipped",
            Self::Truncated => "cut short",
            Self::Zeroed => "a page zeroed",
            Self::Deleted => "deleted",
            Self::Restored => "an old one restored",
        }
    }
}

/// Damages what a file holds; `old` is what it held before. `None` if nothing would be other than it is.
pub(super) fn spoil(
    before: &[u8],
    damage: Damage,
    old: Option<&[u8]>,
    random: &mut SmallRng,
) -> Option<Spoilt> {
    if damage == Damage::Deleted {
        return Some(Spoilt::Gone);
    }
    let mut bytes = before.to_vec();
    match damage {
        Damage::Restored => bytes = old?.to_vec(),
        _ if before.is_empty() => return None,
        Damage::Truncated => bytes.truncate(random.random_range(0..before.len())),
        Damage::Zeroed => {
            let mut pages: Vec<&mut [u8]> =
                bytes.chunks_mut(PAGE).filter(|page| page.iter().any(|byte| *byte != 0)).collect();
            let page = random.random_range(0..pages.len().max(1));
            pages.get_mut(page)?.fill(0);
        }
        Damage::Flipped | Damage::Deleted => {
            let flips = random.random_range(1..=FLIPS);
            for _ in 0..flips {
                let at = random.random_range(0..bytes.len());
                bytes[at] ^= 1_u8 << random.random_range(0..8_u32);
            }
        }
    }
    // The same bit may have flipped to and fro.
    (bytes != before).then_some(Spoilt::Bytes(bytes))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn whatever_is_spoilt_is_other_than_before() {
        let mut random = SmallRng::seed_from_u64(7);
        let (before, old) = (vec![0xA5; 3 * PAGE + 7], vec![0xA5; PAGE]);
        for round in 0..200 {
            for damage in Damage::order(&mut random) {
                match spoil(&before, damage, Some(&old), &mut random) {
                    Some(Spoilt::Gone) => assert_eq!(damage, Damage::Deleted),
                    Some(Spoilt::Bytes(bytes)) => {
                        assert_ne!(bytes, before);
                        let is_shorter = matches!(damage, Damage::Truncated | Damage::Restored);
                        assert_eq!(bytes.len() < before.len(), is_shorter, "{damage:?}");
                        let zeros = bytes.iter().filter(|byte| **byte == 0).count();
                        assert_eq!(zeros == PAGE || zeros == 7, damage == Damage::Zeroed, "{damage:?}");
                    }
                    None => assert_eq!(damage, Damage::Flipped, "in round {round}: to and fro"),
                }
            }
        }
    }

    #[test]
    fn what_would_change_nothing_is_no_damage() {
        let mut random = SmallRng::seed_from_u64(7);
        let mut of = |before: &[u8], damage: Damage, old: Option<&'static [u8]>| {
            spoil(before, damage, old, &mut random)
        };
        for damage in [Damage::Flipped, Damage::Truncated, Damage::Zeroed, Damage::Restored] {
            assert_eq!(of(&[], damage, None), None, "{damage:?}");
        }
        assert_eq!(of(&[0; 5000], Damage::Zeroed, None), None);
        assert_eq!(of(&[1; 5], Damage::Restored, Some(&[1; 5])), None);
        assert_eq!(of(&[], Damage::Deleted, None), Some(Spoilt::Gone));
        assert_eq!(of(&[], Damage::Restored, Some(&[1])), Some(Spoilt::Bytes(vec![1])));
    }

    #[test]
    fn files_are_known_by_where_they_lie() {
        let part = |file: &str| Part::of(Path::new(file));
        assert_eq!(part("rocksdb/000021.sst"), Some(Part::Table));
        assert_eq!(part("rocksdb/000022.log"), Some(Part::WriteAheadLog));
        assert_eq!(part("rocksdb/MANIFEST-000005"), Some(Part::Manifest));
        assert_eq!(part("files/checkpoint-00000000000000000007-2"), Some(Part::Checkpoint));
        assert_eq!(part("slots/floor"), Some(Part::Floor));
        assert_eq!((part("lock"), part("rocksdb/LOG"), part("rocksdb/LOCK")), (None, None, None));
        assert_eq!((part("rocksdb/LOG.old.1"), part("files/.lease")), (None, None));
    }
}
