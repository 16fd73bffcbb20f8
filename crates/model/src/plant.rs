//! The plant: what the cluster reads, keeps and delivers.
//!
//! Here is its canonical form, the one that is committed, compared and executed. [`document`] reads what people
//! write and reports every error with its place; [`address`] knows Modbus notation; [`route`] matches tag
//! patterns; [`plan`] compares two plants; [`units`] reads and prints durations and sizes.
//!
//! - A [`Plant`] that exists is valid: ids are unique and well-formed, addresses fit their types, periods are not 0.
//! - Order is that of the documents and carries no meaning except for the numbering of new ids.
//! - A stored plant with a field that this version does not know is not read: what it means would be left out.

pub mod address;
pub mod document;
pub mod plan;
pub mod route;
pub mod units;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::value::ValueType;
use address::{ModbusAddress, WordOrder};
use route::{CompiledRoutes, Route};

/// Everything the cluster is told to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plant {
    /// Who should lead, and what happens when it comes back.
    pub cluster: ClusterPolicy,
    /// How much is kept and what happens when that is full.
    pub retention: Retention,
    /// What is read or pushes.
    pub devices: Vec<Device>,
    /// Where it is delivered.
    pub destinations: Vec<Destination>,
}

/// Who should lead, and what happens when it comes back.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterPolicy {
    /// Node names, the most preferred first; nodes not named come after.
    pub preferred: Vec<String>,
    /// How leadership returns to a preferred node.
    pub failback: Failback,
}

/// How leadership returns to a preferred node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Failback {
    /// An operator transfers it.
    #[default]
    Manual,
    /// By itself, once the node has been well for `settle` (doubled after each relapse).
    Auto {
        /// How long the preferred node must have been well.
        settle: Duration,
    },
}

/// How much is kept and what happens when that is full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Bytes of undelivered entries per node.
    pub max_bytes: u64,
    /// What happens at that limit.
    pub when_full: WhenFull,
    /// How long delivered entries are kept for replay.
    pub keep_delivered: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { max_bytes: 20 << 30, when_full: WhenFull::Refuse, keep_delivered: Duration::ZERO }
    }
}

/// What happens when the buffer is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// Polled: one running gap record; pushed: no acknowledgement.
    #[default]
    Refuse,
    /// The oldest undelivered entries are given up, by expiry record.
    DropOldest,
}

/// One address, one connection, one owner task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Its id; a tag's full id is `device/name`.
    pub id: String,
    /// How it is reached.
    pub link: Link,
    /// Whether it is read at all.
    pub enabled: bool,
    /// Free words for routing and people.
    pub labels: BTreeMap<String, String>,
    /// For people.
    pub description: String,
    /// Its tags, by the schedule that reads them.
    pub groups: Vec<Group>,
}

/// How a device is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Link {
    /// It is polled over Modbus TCP.
    ModbusTcp(ModbusTcp),
    /// It pushes: any node may take its samples.
    Push,
}

/// How a Modbus TCP device is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModbusTcp {
    /// Host name or IP address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Unit id (slave address), 0–255; 255 and 0 address the device itself.
    pub unit_id: u8,
    /// The socket is closed when connecting, or a request, has taken this long. A device that is not slow has no more
    /// time for a request than what an operation may usually take (see [`Permit`](crate::Permit)).
    pub timeout: Duration,
    /// It may take the whole timeout to answer. A new leader waits with its first request until one of the leader before
    /// it has surely ended.
    #[serde(default)]
    pub slow: bool,
    /// What followers do meanwhile.
    pub standby: Standby,
    /// Registers (or bits) that one request may read although no tag wants them, to join neighbours.
    pub max_gap: u16,
    /// Registers that one request may read at most, 1–125.
    pub max_registers: u16,
}

impl ModbusTcp {
    /// Host and port as they are written, an IPv6 address in brackets.
    pub fn endpoint(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// What followers do with a device that only the leader reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standby {
    /// Nothing.
    #[default]
    Cold,
    /// They may hold an idle connection, and send nothing.
    Warm,
}

/// Tags of a device that are read together, on one grid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Its id, unique in the device.
    pub id: String,
    /// From one slot to the next; pushed groups have none.
    pub schedule: Option<Schedule>,
    /// Whether it is read at all.
    pub enabled: bool,
    /// What is read; never empty.
    pub tags: Vec<Tag>,
}

/// When a group is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// From one slot to the next; at least 10 ms.
    pub period: Duration,
    /// Shifts the read inside its slot; less than the period.
    pub offset: Duration,
}

/// A named point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tag {
    /// Its name below the device.
    pub name: String,
    /// Where its value is in the device; pushed tags have none.
    pub point: Option<ModbusPoint>,
    /// The type of the delivered value.
    pub value_type: ValueType,
    /// Engineering unit; empty where none is given.
    pub unit: String,
    /// For people.
    pub description: String,
}

/// Where a value is in a Modbus device, and how its words are read.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModbusPoint {
    /// The address on the wire.
    pub address: ModbusAddress,
    /// How the words are understood.
    pub encoding: Encoding,
    /// In which order the words and bytes of a number come.
    pub word_order: WordOrder,
    /// `value = raw * factor + offset`; the delivered type is then `f64`.
    pub scaling: Option<Scaling>,
}

/// How the words at an address are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    /// A number or a truth value of this type (never `string` or `bytes`).
    Plain(ValueType),
    /// Four decimal digits in one word.
    Bcd16,
    /// Eight decimal digits in two words.
    Bcd32,
    /// Text of this many bytes, two to a word, ended by the first NUL.
    Text(u16),
    /// This many bytes, two to a word.
    Raw(u16),
}

/// A linear scale.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scaling {
    /// What the raw number is multiplied with.
    pub factor: f64,
    /// What is added then.
    pub offset: f64,
}

/// Where records are delivered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// Its id.
    pub id: String,
    /// What it is and how it is reached.
    pub kind: DestinationKind,
    /// Whether it holds back truncation.
    pub required: bool,
    /// Where a new one begins.
    pub start: Start,
    /// Which tags it is sent.
    pub routes: Vec<Route>,
}

/// What a destination is and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DestinationKind {
    /// Records are posted as JSON.
    Http(Http),
    /// Records are written to rotated files.
    Csv(Csv),
}

/// An HTTP destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Where to post, `http://` or `https://`, without credentials.
    pub url: String,
    /// Bearer token.
    pub token: Option<Secret>,
    /// Certificate authorities to trust instead of the system's, as PEM (a file of the bundle).
    pub ca: Option<String>,
    /// How long one request may take.
    pub timeout: Duration,
    /// Records in one request at most.
    pub max_records: u32,
}

/// A CSV destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Csv {
    /// Where the files go; may hold `${var.…}`, filled in by each node.
    pub directory: PathBuf,
    /// A new file is begun after this time.
    pub every: Duration,
    /// A new file is begun after this many rows.
    pub max_rows: u32,
}

/// Where a secret is found; never the secret itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Secret {
    /// In a file on each node, relative to the node's data directory unless absolute. With a name that ends in `.token`
    /// it may lie there before the node was ever started.
    File(PathBuf),
    /// In an environment variable of each node.
    Env(String),
}

/// Where a new destination begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// With what is committed after it.
    #[default]
    Now,
    /// With the oldest sample that is kept.
    Oldest,
}

impl Encoding {
    /// Words that a value of this encoding takes; one for a truth value, also where it is a single bit.
    pub fn registers(self) -> u16 {
        match self {
            Self::Plain(ValueType::I32 | ValueType::U32 | ValueType::F32) | Self::Bcd32 => 2,
            Self::Plain(ValueType::I64 | ValueType::U64 | ValueType::F64) => 4,
            Self::Plain(_) | Self::Bcd16 => 1,
            Self::Text(bytes) | Self::Raw(bytes) => bytes.div_ceil(2),
        }
    }
}

impl Default for Plant {
    /// The empty plant a cluster is born with.
    fn default() -> Self {
        Self {
            cluster: ClusterPolicy::default(),
            retention: Retention::default(),
            devices: Vec::new(),
            destinations: Vec::new(),
        }
    }
}

impl Plant {
    /// All devices with their groups and tags, in order.
    pub fn tags(&self) -> impl Iterator<Item = (&Device, &Group, &Tag)> {
        let groups =
            self.devices.iter().flat_map(|device| device.groups.iter().map(move |group| (device, group)));
        groups.flat_map(|(device, group)| group.tags.iter().map(move |tag| (device, group, tag)))
    }
}

impl Destination {
    /// Its routes, ready for many tags.
    pub fn compiled_routes(&self) -> CompiledRoutes {
        CompiledRoutes::new(&self.routes)
    }
}

impl Device {
    /// The full id of one of its tags.
    pub fn tag_id(&self, tag: &Tag) -> String {
        format!("{}/{}", self.id, tag.name)
    }

    /// The full id of one of its groups.
    pub fn group_id(&self, group: &Group) -> String {
        format!("{}/{}", self.id, group.id)
    }
}
