//! From the lines of the simulated parts' common history to the account.
//!
//! - One history for devices, pushers and receiver: a line is written after what it follows from.
//! - A line that cannot be understood is a doubt: an account with a hole proves nothing.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::SampleKey;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::files::enter_files;
use super::keys::Text;
use super::{Account, GapSeen, Number, OpeningSeen, SampleSeen, Told};
use crate::history::{EachLine, Entry, History, Kind};
use crate::plant::Plant;

/// With this a history is over.
const TOLD: &str = "told";
/// Members of records, which are the columns of CSV files, in their order: docs/receivers.md.
const SAMPLE: &[&str] = &[
    "key",
    "tag",
    "value",
    "type",
    "unit",
    "quality",
    "status",
    "source_time",
    "gateway_time",
    "device",
    "group",
    "grid",
    "slot",
    "node",
    "term",
];
const GAP: &[&str] = &[
    "key",
    "device",
    "group",
    "grid",
    "first_slot",
    "last_slot",
    "slots",
    "from",
    "to",
    "cause",
    "node",
    "term",
];
const OPENING: &[&str] =
    &["key", "device", "group", "grid", "first", "period", "replaces", "cause", "node", "term"];
const EXPIRY: &[&str] = &["key", "destination", "from", "to", "cause", "samples", "node", "term"];

/// An account that grows while the run goes on. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SharedAccount {
    account: Arc<Mutex<Account>>,
    history: History,
}

impl SharedAccount {
    /// Feeds `account` from a history that is also written to `path`.
    pub fn start(account: Account, path: &Path) -> io::Result<Self> {
        let account = Arc::new(Mutex::new(account));
        let file = BufWriter::new(File::create(path)?);
        let tap = tap(file, Arc::clone(&account));
        Ok(Self { account, history: History::to_writer(tap) })
    }

    /// Where the simulated parts write.
    pub fn history(&self) -> History {
        self.history.clone()
    }

    /// The account with everything that has been seen until now.
    pub fn lock(&self) -> MutexGuard<'_, Account> {
        let flushed = self.history.flush();
        let mut account = lock(&self.account);
        if let Err(error) = flushed {
            account.doubt(format!("the history could not be written: {error}"));
        }
        account
    }

    /// Ends the history with what the account was told: it can be judged again then ([`replay`]).
    pub fn conclude(&self) {
        let told = self.lock().told();
        self.history.record("account", Kind::Info, TOLD, &told);
        drop(self.lock());
    }
}

/// The account of a history that is over, read from its file, and of the CSV files in `files`, if they were kept.
pub fn replay(plant: &Plant, history: &Path, files: Option<&Path>) -> io::Result<Account> {
    let mut account = Account::new(plant, 0);
    let mut is_over = false;
    for line in BufReader::new(File::open(history)?).split(b'\n') {
        match enter_again(&line?, &mut account) {
            // What was open then comes behind it.
            Ok(is_end) => is_over |= is_end,
            Err(error) => account.misread(format!("a line of the history makes no sense: {error}")),
        }
    }
    if !is_over {
        account.doubt("the history ends before its end: what was done to the cluster is not known");
    }
    if let Some(files) = files {
        enter_files(files, &mut account)?;
    }
    Ok(account)
}

/// Enters one line of a history that is over. `true` if it says so.
fn enter_again(line: &[u8], account: &mut Account) -> Result<bool, Nonsense> {
    let head: Head<'_> = serde_json::from_slice(line)?;
    if head.op != TOLD {
        return enter(line, account).map(|()| false);
    }
    let told: Entry<Told> = serde_json::from_slice(line)?;
    account.take(told.details);
    Ok(true)
}

/// Writes lines to `inner` and into the account.
fn tap<W: Write>(inner: W, account: Arc<Mutex<Account>>) -> EachLine<W, impl FnMut(&[u8])> {
    EachLine::new(inner, move |line| {
        let mut account = lock(&account);
        if let Err(error) = enter(line, &mut account) {
            account.misread(format!("a line of the history makes no sense: {error}"));
        }
    })
}

/// What lies behind the lock is whole after every statement, so that a panic elsewhere does no harm.
fn lock(account: &Mutex<Account>) -> MutexGuard<'_, Account> {
    account.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What every line begins with.
#[derive(Deserialize)]
struct Head<'a> {
    t_ns: u64,
    #[serde(borrow)]
    process: Cow<'a, str>,
    kind: Kind,
    #[serde(borrow)]
    op: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Read {
    peer: SocketAddr,
    start: u16,
    count: u16,
    ordinal: u64,
    first_byte_ns: Option<u64>,
}

/// A read that was not answered with values.
#[derive(Deserialize)]
struct InVain {
    peer: Option<SocketAddr>,
    first_byte_ns: Option<u64>,
}

#[derive(Deserialize)]
struct Refused<'a> {
    #[serde(borrow)]
    key: &'a str,
}

#[derive(Deserialize)]
struct Push {
    number: u64,
    base_time: i64,
}

#[derive(Deserialize)]
struct Received<R> {
    is_new: bool,
    record: R,
}

#[derive(Deserialize)]
struct Sample<'a> {
    #[serde(borrow)]
    key: &'a str,
    tag: String,
    value: serde_json::Value,
    device: String,
    grid: Option<&'a str>,
    slot: Option<&'a str>,
    source_time: &'a str,
    gateway_time: &'a str,
    term: &'a str,
    node: String,
}

#[derive(Deserialize)]
struct Gap<'a> {
    #[serde(borrow)]
    key: &'a str,
    device: String,
    grid: &'a str,
    first_slot: &'a str,
    last_slot: &'a str,
    from: &'a str,
    to: &'a str,
    cause: String,
}

#[derive(Deserialize)]
struct Opening<'a> {
    device: String,
    #[serde(borrow)]
    grid: &'a str,
    first: &'a str,
    period: &'a str,
    replaces: Option<&'a str>,
    cause: String,
}

/// A line, or a row, that says nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Nonsense {
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("{0}")]
    Id(#[from] model::ids::InvalidId),
    #[error("{0}")]
    Number(#[from] std::num::ParseIntError),
    #[error("a value that is no number: {0}")]
    Value(String),
    #[error("a row with too few cells, or a record without one of its members")]
    Short,
}

/// Enters one line of the history.
pub(super) fn enter(line: &[u8], account: &mut Account) -> Result<(), Nonsense> {
    let head: Head<'_> = serde_json::from_slice(line)?;
    match (&*head.op, head.kind) {
        ("read", Kind::Ok) => {
            let read: Read = serde_json::from_slice(line)?;
            let span = (read.start, read.count);
            account.answered_span(&head.process, span, read.ordinal, read.peer.ip(), head.t_ns);
            if let Some(began_ns) = read.first_byte_ns {
                account.asked(&head.process, read.ordinal, read.peer.ip(), began_ns);
            }
        }
        ("read", _) => {
            let InVain { peer, first_byte_ns } = serde_json::from_slice(line)?;
            if let (Some(peer), Some(began_ns)) = (peer, first_byte_ns) {
                account.asked_in_vain(&head.process, peer.ip(), began_ns);
            }
        }
        ("overlap", _) => account.overlapped(),
        ("push", Kind::Invoke) => {
            let push: Push = serde_json::from_slice(line)?;
            account.sent(&head.process, push.number, push.base_time);
        }
        ("push", Kind::Ok) => {
            let push: Push = serde_json::from_slice(line)?;
            account.acknowledged(&head.process, push.number);
        }
        ("sample", _) => {
            let received: Received<Sample<'_>> = serde_json::from_slice(line)?;
            account.received(&received.record.try_into()?, received.is_new);
            enter_key(line, SAMPLE, head.t_ns, account)?;
        }
        ("gap", _) => {
            let received: Received<Gap<'_>> = serde_json::from_slice(line)?;
            account.received_gap(&received.record.try_into()?, received.is_new);
            enter_key_of_named(line, GAP, head.t_ns, account)?;
        }
        ("opening", _) => {
            let received: Received<Opening<'_>> = serde_json::from_slice(line)?;
            account.received_opening(received.record.try_into()?, received.is_new);
            enter_key_of_named(line, OPENING, head.t_ns, account)?;
        }
        ("refused", _) => {
            let refused: Refused<'_> = serde_json::from_slice(line)?;
            account.refused(refused.key.parse()?, head.t_ns);
        }
        ("expiry", _) => {
            enter_key(line, EXPIRY, head.t_ns, account)?;
        }
        _ => {}
    }
    Ok(())
}

/// Enters the key of a gap or an opening, which must stand in a file.
fn enter_key_of_named(
    line: &[u8],
    columns: &[&str],
    at_ns: u64,
    account: &mut Account,
) -> Result<(), Nonsense> {
    if let Some(key) = enter_key(line, columns, at_ns, account)? {
        account.named.came(key, at_ns);
    }
    Ok(())
}

/// Enters the key of a record that was accepted, and what it names. The key, if it came for the first time.
fn enter_key(
    line: &[u8],
    columns: &[&str],
    at_ns: u64,
    account: &mut Account,
) -> Result<Option<SampleKey>, Nonsense> {
    let Received { is_new, record }: Received<&RawValue> = serde_json::from_slice(line)?;
    let cells = cells(record, columns)?;
    let key = cells.first().ok_or(Nonsense::Short)?.parse::<SampleKey>()?;
    // What was refused had its answer then: the cursor may pass it, and it comes whenever it is offered again.
    let answered_ns = account.refused.get(&key).copied().unwrap_or(at_ns);
    account.keys.came(key, Text::of(cells.iter().map(|cell| &**cell)), is_new, answered_ns);
    Ok(is_new.then_some(key))
}

/// A record as the cells of a row: without the quotes of JSON, and empty where it says `null`.
fn cells<'a>(record: &'a RawValue, columns: &[&str]) -> Result<Vec<Cow<'a, str>>, Nonsense> {
    let members: BTreeMap<&str, &RawValue> = serde_json::from_str(record.get())?;
    let cell = |column: &&str| -> Result<Cow<'a, str>, Nonsense> {
        let text = members.get(*column).copied().ok_or(Nonsense::Short)?.get();
        Ok(match text {
            "null" => Cow::Borrowed(""),
            quoted if quoted.starts_with('"') => Cow::Owned(serde_json::from_str(quoted)?),
            plain => Cow::Borrowed(plain),
        })
    };
    columns.iter().map(cell).collect()
}

impl TryFrom<Sample<'_>> for SampleSeen {
    type Error = Nonsense;

    fn try_from(sample: Sample<'_>) -> Result<Self, Nonsense> {
        let slot = match (sample.grid, sample.slot) {
            (Some(grid), Some(slot)) => Some((grid.parse()?, slot.parse()?)),
            _ => None,
        };
        Ok(Self {
            key: sample.key.parse()?,
            value: number(&sample.value)?,
            slot,
            source_time: sample.source_time.parse()?,
            gateway_time: sample.gateway_time.parse()?,
            term: sample.term.parse()?,
            node: sample.node,
            tag: sample.tag,
            device: sample.device,
        })
    }
}

impl TryFrom<Gap<'_>> for GapSeen {
    type Error = Nonsense;

    fn try_from(gap: Gap<'_>) -> Result<Self, Nonsense> {
        Ok(Self {
            key: gap.key.parse()?,
            device: gap.device,
            grid: gap.grid.parse()?,
            first: gap.first_slot.parse()?,
            last: gap.last_slot.parse()?,
            from: gap.from.parse()?,
            to: gap.to.parse()?,
            cause: gap.cause,
        })
    }
}

impl TryFrom<Opening<'_>> for OpeningSeen {
    type Error = Nonsense;

    fn try_from(opening: Opening<'_>) -> Result<Self, Nonsense> {
        Ok(Self {
            device: opening.device,
            grid: opening.grid.parse()?,
            first: opening.first.parse()?,
            period_ns: nanos(opening.period)?,
            cause: opening.cause,
            replaces: opening.replaces.map(str::parse).transpose()?,
        })
    }
}

/// A duration in proto3 JSON: seconds with nine digits at most behind the point, and an `s`.
fn nanos(duration: &str) -> Result<i64, Nonsense> {
    let wrong = || Nonsense::Value(duration.to_owned());
    let (seconds, rest) = duration
        .strip_suffix('s')
        .map(|text| text.split_once('.').unwrap_or((text, "0")))
        .ok_or_else(wrong)?;
    let rest: i64 = format!("{rest:0<9}").parse()?;
    let seconds: i64 = seconds.parse()?;
    Some(seconds * 1_000_000_000 + rest).filter(|nanos| *nanos > 0).ok_or_else(wrong)
}

/// proto3 JSON has 64-bit integers as strings.
fn number(value: &serde_json::Value) -> Result<Option<Number>, Nonsense> {
    use serde_json::Value;
    let wrong = || Nonsense::Value(value.to_string());
    match value {
        Value::Null => Ok(None),
        Value::String(text) => text.parse().map(|whole| Some(Number::Whole(whole))).map_err(|_| wrong()),
        Value::Number(number) => match (number.as_u64(), number.as_f64()) {
            (Some(whole), _) => Ok(Some(Number::Whole(whole))),
            (None, Some(real)) => Ok(Some(Number::Real(real))),
            (None, None) => Err(wrong()),
        },
        // System tags may be anything; they are no part of the account.
        _ => Ok(None),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use model::Position;

    use super::*;
    use crate::account::{ClockSet, Effect, Fault};

    pub(in crate::account) const LINES: [&str; 8] = [
        r#"{"t_ns":5000,"process":"hall-1/press-1","kind":"ok","op":"read","peer":"127.0.0.11:40000","unit":1,"function":3,"start":0,"count":22,"ordinal":1,"first_byte_ns":1,"last_byte_ns":2,"hash":0}"#,
        r#"{"t_ns":6000,"process":"hall-1/press-1","kind":"info","op":"read","peer":"127.0.0.11:40000","ordinal":2}"#,
        r#"{"t_ns":1,"process":"hall-2/robot-1","kind":"invoke","op":"push","number":0,"attempt":0,"base_time":1700000000000000000,"endpoint":0}"#,
        r#"{"t_ns":2,"process":"hall-2/robot-1","kind":"ok","op":"push","number":0,"attempt":0,"base_time":1700000000000000000,"endpoint":0}"#,
        r#"{"t_ns":3,"process":"historian","kind":"ok","op":"sample","is_new":true,"historical":false,"record":{"key":"00000000/7/0","tag":"hall-2/robot-1/cycles","value":"0","type":"u64","unit":"","quality":"good","status":"Good","source_time":"2023-11-14T22:13:20.000000000Z","gateway_time":"2023-11-14T22:13:20.000000000Z","device":"hall-2/robot-1","group":"","grid":null,"slot":null,"node":"node-1","term":"3"}}"#,
        r#"{"t_ns":4,"process":"historian","kind":"ok","op":"gap","is_new":true,"historical":false,"record":{"key":"00000000/7/2147483648","device":"hall-1/press-1","group":"fast","grid":"1","first_slot":"0","last_slot":"2","slots":"3","from":"2023-11-14T22:13:20.000000000Z","to":"2023-11-14T22:13:20.300000000Z","cause":"failover","node":"node-1","term":"3"}}"#,
        r#"{"t_ns":4,"process":"historian","kind":"ok","op":"opening","is_new":true,"historical":false,"record":{"key":"00000000/6/2147483648","device":"hall-1/press-1","group":"fast","grid":"1","first":"2023-11-14T22:13:20.000000000Z","period":"0.100s","replaces":null,"cause":"configuration","node":"node-1","term":"3"}}"#,
        r#"{"t_ns":5,"process":"hall-1/press-1","kind":"fail","op":"overlap","ended":{},"other":"127.0.0.12","other_first_ns":1}"#,
    ];

    #[test]
    fn lines_reach_the_account_and_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("history.jsonl");
        let file = BufWriter::new(File::create(&path).expect("a file"));
        let account = Arc::new(Mutex::new(Account::new(&Plant::demo(), 0)));
        let mut tap = tap(file, Arc::clone(&account));
        let text: String = LINES.iter().map(|line| format!("{line}\n")).collect();
        // Lines are cut anywhere by the buffer before.
        for piece in text.as_bytes().chunks(77) {
            tap.write_all(piece).expect("room");
        }
        tap.flush().expect("room");
        assert_eq!(std::fs::read_to_string(&path).expect("readable"), text);
        let report = lock(&account).settle();
        let seen = (report.reads_answered, report.pushed_acked, report.delivered, report.device_overlaps);
        assert_eq!(seen, (1, 6, 1, 1));
        assert_eq!((report.slots_in_gaps, report.lost), (3, 5), "five samples of the message did not arrive");
        assert!(!report.problems.iter().any(|problem| problem.contains("makes no sense")), "{report:?}");
    }

    #[test]
    fn a_line_that_makes_no_sense_is_a_doubt() {
        let folder = tempfile::tempdir().expect("a folder");
        let account = Account::new(&Plant::demo(), 0);
        let shared = SharedAccount::start(account, &folder.path().join("history.jsonl")).expect("a file");
        shared.history().record("historian", Kind::Ok, "sample", &serde_json::json!({ "is_new": true }));
        let report = shared.lock().settle();
        assert!(report.problems.iter().any(|problem| problem.contains("makes no sense")), "{report:?}");
    }

    #[test]
    fn a_history_that_is_over_is_judged_again_and_one_that_is_not_is_a_doubt() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("history.jsonl");
        let plant = Plant::demo();
        let shared = SharedAccount::start(Account::new(&plant, 77), &path).expect("a file");
        for line in LINES {
            let entry: Entry<serde_json::Value> = serde_json::from_str(line).expect("it makes sense");
            shared.history().record_at(entry.t_ns, &entry.process, entry.kind, &entry.op, &entry.details);
        }
        let again = |path: &Path| replay(&plant, path, None).expect("readable");
        drop(shared.lock());
        let problems = again(&path).settle().problems;
        assert!(problems.iter().any(|problem| problem.contains("before its end")), "{problems:?}");

        let name = "kill -9 node-1".to_owned();
        let effect = Effect::Failover;
        shared.lock().suffered(Fault { name, effect, began_ns: 1, taken_over_ns: 2, ended_ns: 3 });
        shared.lock().begins_to_suffer(Effect::Switchover, 4);
        shared.lock().disturbed(5, 6);
        shared.lock().device_failed("hall-1/press-1", 6, 7);
        shared.lock().allow(&["overload"]);
        shared.lock().allow_within(&["disk-full"], 1, 2);
        shared.lock().conflicted(2);
        shared.lock().rows_are_due(98);
        let node = SocketAddr::from(([127, 0, 0, 11], 0)).ip();
        shared.lock().clock_was_set(ClockSet { node: Some(node), began_ns: 7, ended_ns: u64::MAX });
        shared.lock().wall_clock_ends(99);
        shared.lock().doubt("it did not bite");
        shared.conclude();
        shared.history().record("hall-1/press-1", Kind::Info, "read", &serde_json::json!({ "ordinal": 3 }));
        let (first, second) = (shared.lock(), again(&path));
        assert_eq!(second.told(), first.told());
        assert_eq!(second.settle(), first.settle());
        assert_eq!(second.settle().failovers.len(), 1);
    }

    #[test]
    fn what_was_refused_had_its_answer_then_and_holds_up_no_cursor() {
        let refused = r#"{"t_ns":1,"process":"historian","kind":"fail","op":"refused","key":"00000000/7/0"}"#;
        for (before, came_ns) in [(None, 3), (Some(refused), 1)] {
            let mut account = Account::new(&Plant::demo(), 0);
            for line in before.into_iter().chain(LINES[2..5].iter().copied()) {
                enter(line.as_bytes(), &mut account).expect("it makes sense");
            }
            assert_eq!(account.accepted(), [(Position(7), came_ns)]);
        }
    }
}
