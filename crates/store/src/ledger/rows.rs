//! Rows: the ledger as keys and values, for the disk, for checkpoints and for the digest.
//!
//! - A key is one byte of kind and the id in big-endian; a value is JSON, but for revisions, whose bundle follows, and
//!   staged documents, which are bytes.
//!   JSON, because rows are few and small, must be readable in ten years, and gain fields without a migration.
//! - The same state gives the same bytes: maps are ordered, and nothing here is local to a node.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use model::catalog::Catalog;
use model::ids::{DestinationId, DocumentId, GroupId, NodeId, Revision, SessionId};
use model::plant::Plant;
use model::{Lineage, Ordinal, Position, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::fill::Mark;
use super::revisions::kept;
use super::state::{
    AlarmKey, Cluster, Contents, Grid, LogId, Membership, QuarantineKey, Reign, RevisionState, StandingAlarm,
    State, Steady,
};
use crate::staging::Staged;

/// One row, by what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Row {
    Applied,
    Cluster,
    Membership,
    Reigns,
    Registry,
    Drained,
    Relapses,
    Disabled,
    Closed,
    Alarms,
    Grid(GroupId),
    Session(SessionId),
    Destination(DestinationId),
    Revision(Revision),
    Effects(Position),
    Mark(Position),
    Quarantined(QuarantineKey),
    Event(Position),
    Staged(DocumentId, u32),
}

/// A row that was set (`Some`) or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowChange {
    /// Its key.
    pub key: Vec<u8>,
    /// Its new value.
    pub value: Option<Vec<u8>>,
}

/// A row that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ledger row {key:02x?}: {reason}")]
pub struct DamagedRow {
    /// Its key.
    pub key: Vec<u8>,
    /// What is wrong.
    pub reason: String,
}

/// The sum of the hashes of all rows: independent of their order, cheap to keep up to date.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Digest(pub u128);

impl Digest {
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) -> u128 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(key.len() as u64).to_le_bytes());
        hasher.update(key);
        hasher.update(value);
        let bytes = hasher.finalize();
        let hash = u128::from_le_bytes(bytes.as_bytes()[..16].try_into().expect("a hash has 32 bytes"));
        self.0 = self.0.wrapping_add(hash);
        hash
    }

    pub(super) fn remove(&mut self, hash: Option<u128>) {
        self.0 = self.0.wrapping_sub(hash.unwrap_or(0));
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[derive(Serialize, Deserialize)]
struct AppliedRow {
    applied: Option<LogId>,
    #[serde(rename = "last_delivered")]
    last_deliverable: Position,
    bytes: u64,
    samples: u64,
    steady: Steady,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    referred: BTreeMap<Revision, Position>,
}

#[derive(Serialize, Deserialize)]
struct ClusterRow {
    cluster: Option<Cluster>,
    lineages: Vec<(Position, Lineage)>,
    horizon: Position,
    last_grid: model::GridId,
}

#[derive(Serialize, Deserialize)]
struct MembershipRow {
    membership: Membership,
    node_names: BTreeMap<NodeId, String>,
}

#[derive(Serialize, Deserialize)]
struct RevisionRow {
    position: Position,
    at: Timestamp,
    principal: String,
    reason: String,
    contents: Contents,
    plant: Option<Arc<Plant>>,
    /// One that went and came again has another number now.
    destinations: BTreeMap<String, DestinationId>,
}

impl Row {
    /// The key on disk.
    pub(crate) fn key(self) -> Vec<u8> {
        let mut key = Vec::with_capacity(21);
        key.push(self.kind());
        match self {
            Self::Applied
            | Self::Cluster
            | Self::Membership
            | Self::Reigns
            | Self::Registry
            | Self::Drained
            | Self::Relapses
            | Self::Disabled
            | Self::Closed
            | Self::Alarms => {}
            Self::Grid(group) => key.extend(group.0.to_be_bytes()),
            Self::Session(session) => key.extend(session.as_bytes()),
            Self::Destination(id) => key.extend(id.0.to_be_bytes()),
            Self::Revision(revision) => key.extend(revision.0.to_be_bytes()),
            Self::Effects(position) | Self::Mark(position) | Self::Event(position) => {
                key.extend(position.0.to_be_bytes())
            }
            Self::Quarantined((id, position, ordinal)) => {
                key.extend(id.0.to_be_bytes());
                key.extend(position.0.to_be_bytes());
                key.extend(ordinal.0.to_be_bytes());
            }
            Self::Staged(document, part) => {
                key.extend(document.as_bytes());
                key.extend(part.to_be_bytes());
            }
        }
        key
    }

    fn kind(self) -> u8 {
        match self {
            Self::Applied => b'a',
            Self::Cluster => b'c',
            Self::Membership => b'm',
            Self::Reigns => b'l',
            Self::Registry => b'n',
            Self::Drained => b'w',
            Self::Relapses => b'b',
            Self::Disabled => b'x',
            Self::Closed => b'z',
            Self::Alarms => b't',
            Self::Grid(_) => b'g',
            Self::Session(_) => b's',
            Self::Destination(_) => b'd',
            Self::Revision(_) => b'r',
            Self::Effects(_) => b'f',
            Self::Mark(_) => b'k',
            Self::Quarantined(_) => b'q',
            Self::Event(_) => b'e',
            Self::Staged(..) => b'p',
        }
    }

    fn parse(key: &[u8]) -> Option<Self> {
        let (kind, id) = key.split_first()?;
        let u32_at = |from: usize| Some(u32::from_be_bytes(id.get(from..from + 4)?.try_into().ok()?));
        let u64_at = |from: usize| Some(u64::from_be_bytes(id.get(from..from + 8)?.try_into().ok()?));
        Some(match kind {
            b'a' => Self::Applied,
            b'c' => Self::Cluster,
            b'm' => Self::Membership,
            b'l' => Self::Reigns,
            b'n' => Self::Registry,
            b'w' => Self::Drained,
            b'b' => Self::Relapses,
            b'x' => Self::Disabled,
            b'z' => Self::Closed,
            b't' => Self::Alarms,
            b'g' => Self::Grid(GroupId(u32_at(0)?)),
            b's' => Self::Session(SessionId(id.try_into().ok()?)),
            b'd' => Self::Destination(DestinationId(u32_at(0)?)),
            b'r' => Self::Revision(Revision(u64_at(0)?)),
            b'f' => Self::Effects(Position(u64_at(0)?)),
            b'k' => Self::Mark(Position(u64_at(0)?)),
            b'q' => {
                Self::Quarantined((DestinationId(u32_at(0)?), Position(u64_at(4)?), Ordinal(u32_at(12)?)))
            }
            b'e' => Self::Event(Position(u64_at(0)?)),
            b'p' => Self::Staged(DocumentId(id.get(..16)?.try_into().ok()?), u32_at(16)?),
            _ => return None,
        })
    }

    /// The value of this row, or `None` where the state has none.
    pub(crate) fn encode(self, state: &State) -> Option<Vec<u8>> {
        Some(match self {
            Self::Applied => json(&AppliedRow {
                applied: state.applied,
                last_deliverable: state.last_deliverable,
                bytes: state.fill.bytes,
                samples: state.fill.samples,
                steady: state.steady,
                referred: state.referred.clone(),
            }),
            Self::Cluster => json(&ClusterRow {
                cluster: state.cluster.clone(),
                lineages: state.lineages.clone(),
                horizon: state.horizon,
                last_grid: state.last_grid,
            }),
            Self::Membership => json(&MembershipRow {
                membership: state.membership.clone(),
                node_names: state.node_names.clone(),
            }),
            Self::Reigns => json(&state.reigns),
            Self::Registry => json(&*state.registry),
            Self::Drained => json(&state.drained),
            Self::Relapses => json(&state.relapses),
            Self::Disabled => json(&state.disabled),
            Self::Closed => json(&state.closed),
            // A list: JSON has no maps with keys of two parts.
            Self::Alarms => json(&state.alarms.iter().collect::<Vec<_>>()),
            Self::Grid(group) => json(state.grids.get(&group)?),
            Self::Session(session) => json(state.sessions.get(&session)?),
            Self::Destination(id) => json(state.destinations.get(&id)?),
            Self::Revision(revision) => encode_revision(state.revisions.get(&revision)?),
            Self::Effects(position) => json(state.effects.get(&position)?),
            Self::Mark(position) => json(state.fill.marks.get(&position)?),
            Self::Quarantined(key) => json(state.quarantine.get(&key)?),
            Self::Event(position) => json(state.events.get(&position)?),
            Self::Staged(document, part) => encode_staged(state.staged.get(&document)?, part)?,
        })
    }
}

/// Reads rows into a state; revisions wait until the registry is known.
#[derive(Default)]
pub(crate) struct Loader {
    revisions: Vec<(Revision, RevisionRow, Bytes)>,
}

impl Loader {
    pub(crate) fn load(&mut self, state: &mut State, key: &[u8], value: &[u8]) -> Result<Row, DamagedRow> {
        let damaged = |reason: String| DamagedRow { key: key.to_owned(), reason };
        let row = Row::parse(key).ok_or_else(|| damaged("unknown kind of row".to_owned()))?;
        match row {
            Row::Applied => {
                let stored: AppliedRow = parse(key, value)?;
                state.applied = stored.applied;
                state.last_deliverable = stored.last_deliverable;
                (state.fill.bytes, state.fill.samples) = (stored.bytes, stored.samples);
                state.steady = stored.steady;
                state.referred = stored.referred;
            }
            Row::Cluster => {
                let stored: ClusterRow = parse(key, value)?;
                state.cluster = stored.cluster;
                state.lineages = stored.lineages;
                state.horizon = stored.horizon;
                state.last_grid = stored.last_grid;
            }
            Row::Membership => {
                let stored: MembershipRow = parse(key, value)?;
                state.membership = stored.membership;
                state.node_names = stored.node_names;
            }
            Row::Reigns => state.reigns = parse::<Vec<Reign>>(key, value)?,
            Row::Registry => state.registry = Arc::new(parse(key, value)?),
            Row::Drained => state.drained = parse(key, value)?,
            Row::Relapses => state.relapses = parse(key, value)?,
            Row::Disabled => state.disabled = parse(key, value)?,
            Row::Closed => state.closed = parse(key, value)?,
            Row::Alarms => {
                state.alarms = parse::<Vec<(AlarmKey, StandingAlarm)>>(key, value)?.into_iter().collect();
            }
            Row::Grid(group) => {
                state.grids.insert(group, parse::<Grid>(key, value)?);
            }
            Row::Session(session) => {
                state.sessions.insert(session, parse(key, value)?);
            }
            Row::Destination(id) => {
                state.destinations.insert(id, parse(key, value)?);
            }
            Row::Revision(revision) => {
                let (stored, bundle) = decode_revision(key, value)?;
                self.revisions.push((revision, stored, bundle));
            }
            Row::Effects(position) => {
                state.effects.insert(position, parse(key, value)?);
            }
            Row::Mark(position) => {
                state.fill.marks.insert(position, parse::<Mark>(key, value)?);
            }
            Row::Quarantined(quarantined) => {
                state.quarantine.insert(quarantined, parse(key, value)?);
            }
            Row::Event(position) => {
                state.events.insert(position, parse(key, value)?);
            }
            Row::Staged(document, part) => {
                let (since, parts, data) = decode_staged(key, value)?;
                let staged = || Staged { since, parts, received: BTreeMap::new() };
                state.staged.entry(document).or_insert_with(staged).received.insert(part, data);
            }
        }
        Ok(row)
    }

    pub(crate) fn finish(self, state: &mut State) {
        for (revision, row, bundle) in self.revisions {
            let RevisionRow { position, at, principal, reason, contents, plant, destinations } = row;
            let numbered = |plant| Catalog::numbered(revision, plant, &state.registry, &destinations);
            let (catalog, bundle) = (plant.map(numbered).map(Arc::new), kept(bundle));
            let known = RevisionState { position, at, principal, reason, contents, bundle, catalog };
            state.revisions.insert(revision, known);
        }
    }
}

/// `[length of the JSON: u32 little-endian][JSON][bundle]`.
fn encode_revision(state: &RevisionState) -> Vec<u8> {
    let header = json(&RevisionRow {
        position: state.position,
        at: state.at,
        principal: state.principal.clone(),
        reason: state.reason.clone(),
        contents: state.contents,
        plant: state.catalog.as_ref().map(|catalog| Arc::clone(catalog.plant())),
        destinations: state
            .catalog
            .iter()
            .flat_map(|catalog| catalog.destinations())
            .map(|(id, destination)| (destination.id.clone(), id))
            .collect(),
    });
    let length = u32::try_from(header.len()).expect("a plant is far below 4 GiB");
    let bundle = state.bundle.as_deref().unwrap_or_default();
    let mut value = Vec::with_capacity(4 + header.len() + bundle.len());
    value.extend(length.to_le_bytes());
    value.extend(header);
    value.extend_from_slice(bundle);
    value
}

fn decode_revision(key: &[u8], value: &[u8]) -> Result<(RevisionRow, Bytes), DamagedRow> {
    let short = || DamagedRow { key: key.to_owned(), reason: "too short".to_owned() };
    let (length, rest) = value.split_first_chunk::<4>().ok_or_else(short)?;
    let (header, bundle) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(short)?;
    Ok((parse(key, header)?, Bytes::copy_from_slice(bundle)))
}

/// `[position of the first part: u64 little-endian][number of parts: u32 little-endian][part]`.
fn encode_staged(staged: &Staged, part: u32) -> Option<Vec<u8>> {
    let data = staged.received.get(&part)?;
    let mut value = Vec::with_capacity(12 + data.len());
    value.extend(staged.since.0.to_le_bytes());
    value.extend(staged.parts.to_le_bytes());
    value.extend_from_slice(data);
    Some(value)
}

fn decode_staged(key: &[u8], value: &[u8]) -> Result<(Position, u32, Bytes), DamagedRow> {
    let short = || DamagedRow { key: key.to_owned(), reason: "too short".to_owned() };
    let (since, rest) = value.split_first_chunk::<8>().ok_or_else(short)?;
    let (parts, data) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let since = Position(u64::from_le_bytes(*since));
    Ok((since, u32::from_le_bytes(*parts), Bytes::copy_from_slice(data)))
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("rows hold nothing that JSON cannot")
}

fn parse<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, DamagedRow> {
    serde_json::from_slice(value)
        .map_err(|error| DamagedRow { key: key.to_owned(), reason: error.to_string() })
}
