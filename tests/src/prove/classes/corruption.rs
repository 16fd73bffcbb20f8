//! A file of one node's data directory is damaged while its node is dead: bits flip, it is cut short, a page of it becomes
//! zeros, it is deleted, or what it was before comes back. Then the node is started.
//!
//! - It may refuse: it ends with a message that has the number of a page in docs/errors, or stays up and says over its API
//!   that it has lost its memory (HF-4104). Or it is whole again, if the damage does not matter, and then it must lead, too:
//!   who leads reads what it has and delivers it. If it comes to read what is damaged, it ends with such a message.
//! - Anything else has failed: an end without those words, a node that neither runs nor refuses; and, by the account, data
//!   that are wrong or lost.
//! - Whatever it did, it is replaced at the end, as the pages say: damage that was not seen may be seen later.
//! - Every fault begins with a restart of the node: what its files were by then is what may come back, and its database has
//!   tables.
//! - A damage has bitten if the file is not there any more, or other bytes are.

mod damage;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rand::Rng as _;
use rand::rngs::SmallRng;
use simulator::history::monotonic_ns;
use simulator::nodes::cluster::View;
use simulator::nodes::layout::NODES;
use simulator::nodes::process::Process;
use simulator::trial::STEADY_READS;
use tokio::sync::MutexGuard;
use tokio::time::Instant;
use tonic::Status;
use wire::proto::v1 as pb;

use self::damage::{Damage, Part, Spoilt, spoil};
use super::{World, one_after_the_other, one_of};
use crate::cluster::code;
use crate::prove::liveness::{Bounds, Silence};
use crate::prove::run::{Assignment, RunReport};
use crate::until;

/// What a node says that will not go on with what it finds: HF-1302 (whose directory), HF-1303 (which version), HF-4104 (it
/// forgot), HF-4105 (damage). Their pages say that it is to be replaced.
const REFUSALS: [&str; 4] = ["HF-1302", "HF-1303", "HF-4104", "HF-4105"];
const LOST_MEMORY: &str = "HF-4104";
/// Who was damaged is made to lead, stops at what it cannot read, and ends: that is a hand-over and an election in a row.
pub const BOUNDS: Bounds = Bounds { silence: Silence::AtMost(Duration::from_secs(20)), ..Bounds::USUAL };

/// Below the folder of the run.
const KEPT: &str = "kept";

/// What was done to which file.
struct Case {
    part: Part,
    damage: Damage,
    /// Below the data directory.
    file: PathBuf,
    has_bitten: bool,
}

/// What a node did about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    /// It ended, or did not start, and said why.
    Ended,
    /// It stays up and takes no part.
    StoodBy,
    /// It was whole, and led.
    WentOn,
}

/// Damages files so often.
pub async fn run(assignment: &Assignment) -> Result<RunReport> {
    Box::pin(one_after_the_other("corruption", assignment, corrupt)).await
}

async fn corrupt(world: &mut World) -> Result<()> {
    let leader = world.scene.agreed().await?;
    let victim = one_of(&mut world.random, leader);
    let kept = world.scene.folder().join(KEPT);
    world.scene.disturb(Box::pin(restart(world, victim, &kept))).await?;
    world.whole().await?;
    world.moment().await;
    world.leaves_majority(true);
    world.scene.kill(victim).await?;
    let data = world.scene.node(victim).data.clone();
    let case = damage_one(&mut world.random, &data, &kept)?;
    std::fs::remove_dir_all(&kept)?;
    world.report.injected(case.has_bitten);
    let told = format!("{}, {} ({})", case.part.name(), case.damage.name(), case.file.display());
    world.scene.say(&format!("{}: {told}", world.scene.name(victim)));

    let answer = world.scene.disturb(Box::pin(answer(world, victim))).await.with_context(|| told.clone())?;
    let figure = format!("{}, {}: {}", case.part.name(), case.damage.name(), answer.name());
    *world.report.figures.entry(figure).or_default() += 1.0;
    Box::pin(replace(world, victim)).await.context(told)
}

/// Kills a node, keeps a copy of its files, and starts it again.
async fn restart(world: &World, node: usize, kept: &Path) -> Result<()> {
    let mut process = world.scene.process(node).await;
    process.kill().await?;
    copy(&world.scene.node(node).data, kept)?;
    Ok(process.start()?)
}

/// Copies a data directory, but for its reserve, which is large and holds nothing.
fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else if Part::of(Path::new(&entry.file_name())) != Some(Part::Reserve) {
            std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// Files below a folder, by what they are to a node.
fn parts(data: &Path) -> Result<BTreeMap<Part, Vec<PathBuf>>> {
    let mut found: BTreeMap<Part, Vec<PathBuf>> = BTreeMap::new();
    let mut folders = vec![data.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let file = path.strip_prefix(data)?.to_owned();
            if let Some(part) = Part::of(&file) {
                found.entry(part).or_default().push(file);
            }
        }
    }
    // The order in which a folder is read is nothing that a seed decides.
    found.values_mut().for_each(|files| files.sort());
    found.insert(Part::Database, vec![PathBuf::from("rocksdb")]);
    Ok(found)
}

/// Damages something in the data directory of a dead node; `kept` is what was there before.
fn damage_one(random: &mut SmallRng, data: &Path, kept: &Path) -> Result<Case> {
    let found = parts(data)?;
    let place = random.random_range(0..found.len());
    let (part, files) = found.into_iter().nth(place).context("there is such a part")?;
    let file = files[random.random_range(0..files.len())].clone();
    let (path, old) = (data.join(&file), kept.join(&file));
    let (damage, has_bitten) = match part {
        Part::Database => damage_database(random, &path, &old)?,
        _ => damage_file(random, &path, &old)?,
    };
    Ok(Case { part, damage, file, has_bitten })
}

fn damage_database(random: &mut SmallRng, path: &Path, old: &Path) -> Result<(Damage, bool)> {
    let before = content(path)?;
    let damage = if random.random_bool(0.5) { Damage::Deleted } else { Damage::Restored };
    std::fs::remove_dir_all(path)?;
    if damage == Damage::Restored {
        copy(old, path)?;
    }
    Ok((damage, content(path)? != before))
}

fn damage_file(random: &mut SmallRng, path: &Path, old: &Path) -> Result<(Damage, bool)> {
    let (before, old) = (std::fs::read(path)?, read_if_there(old)?);
    for damage in Damage::order(random) {
        match spoil(&before, damage, old.as_deref(), random) {
            None => continue,
            Some(Spoilt::Gone) => std::fs::remove_file(path)?,
            Some(Spoilt::Bytes(bytes)) => std::fs::write(path, bytes)?,
        }
        return Ok((damage, read_if_there(path)?.is_none_or(|after| after != before)));
    }
    bail!("{} can be deleted at least", path.display())
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => Ok(Some(other?)),
    }
}

/// The files of a folder without folders; none, if it is not there.
fn content(folder: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    if folder.try_exists()? {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let bytes = std::fs::read(&path)?;
            found.insert(path, bytes);
        }
    }
    Ok(found)
}

/// Starts a node on what was damaged. An error unless it refuses with its words, or is whole and leads.
async fn answer(world: &World, node: usize) -> Result<Answer> {
    let mut started = Started::now(world, node).await?;
    let at = Instant::now();
    if let Some(answer) = started.comes("to refuse, or to be whole", async || is_whole(world, at)).await? {
        return Ok(answer);
    }
    if let Some(answer) = started.comes("to refuse, or to lead", async || leads(world, node).await).await? {
        return Ok(answer);
    }
    let (since_ns, before) = (monotonic_ns(), delivered(world).await);
    let acts = async || acts(world, node, since_ns, before).await;
    let answer = started.comes("to refuse, or to read every device and to deliver", acts).await?;
    Ok(answer.unwrap_or(Answer::WentOn))
}

/// A node that was started on what was damaged. Who watches it does not see it end by itself as long as this lives.
struct Started<'a> {
    world: &'a World,
    node: usize,
    process: MutexGuard<'a, Process>,
    /// The length of its log before.
    said: usize,
}

impl<'a> Started<'a> {
    async fn now(world: &'a World, node: usize) -> Result<Self> {
        let mut process = world.scene.process(node).await;
        let said = process.log().len();
        process.start()?;
        Ok(Self { world, node, process, said })
    }

    /// Waits until it comes to something; its answer, if it refuses instead.
    async fn comes(
        &mut self,
        what: &str,
        mut look: impl AsyncFnMut() -> Result<()>,
    ) -> Result<Option<Answer>> {
        until(what, async || match self.refusal().await {
            Ok(None) => look().await.map(|()| Ok(None)).map_err(|missing| format!("{missing:#}")),
            Ok(refusal) => Ok(Ok(refusal)),
            Err(error) => Ok(Err(error)),
        })
        .await?
    }

    async fn refusal(&mut self) -> Result<Option<Answer>> {
        if let Some(status) = self.process.has_ended()? {
            let log = self.process.log();
            says_why(status, log.get(self.said..).unwrap_or(&log))?;
            return Ok(Some(Answer::Ended));
        }
        let Err(refusal) = self.world.scene.status(self.node).await else { return Ok(None) };
        let status = refusal.downcast_ref::<Status>();
        Ok(status.filter(|status| code(status) == LOST_MEMORY).map(|_| Answer::StoodBy))
    }
}

/// An error unless a node that ended by itself said that its directory cannot be used any more.
fn says_why(status: ExitStatus, said: &str) -> Result<()> {
    let is_told = REFUSALS.iter().any(|refusal| said.contains(refusal));
    ensure!(status.code() == Some(1) && is_told, "it ended by itself ({status}), and said\n{said}");
    Ok(())
}

/// An error unless all nodes have agreed since a moment.
fn is_whole(world: &World, since: Instant) -> Result<()> {
    // The one that is held here is taken for dead by who watches it.
    let view = View { is_running: vec![true; NODES], ..world.scene.view() };
    ensure!(view.asked.is_some_and(|asked| asked >= since), "they were not asked yet");
    view.agreed().with_context(|| format!("they do not agree: {view}"))?;
    Ok(())
}

/// An error unless a node leads; it is asked to.
async fn leads(world: &World, node: usize) -> Result<()> {
    let (name, view) = (world.scene.name(node), world.scene.view());
    let leader = view.leader().with_context(|| format!("nobody leads: {view}"))?;
    if leader.name == name {
        return Ok(());
    }
    let question = pb::TransferLeadershipRequest { to: name.to_owned(), reason: "it was damaged".to_owned() };
    world.scene.ask(question, async |admin, question| admin.transfer_leadership(question).await).await?;
    bail!("{} was asked to hand over", leader.name)
}

/// An error unless a node has read every device since a moment, and more has been delivered.
async fn acts(world: &World, node: usize, since_ns: u64, before: u64) -> Result<()> {
    let address = world.scene.node(node).field;
    let reads = world.scene.field.account.lock().reads_since(since_ns, |reader| reader == address);
    ensure!(reads >= STEADY_READS, "it has read a device {reads} times");
    let samples = delivered(world).await;
    ensure!(samples > before, "{samples} samples are delivered");
    Ok(())
}

/// Distinct samples that the HTTP receiver has taken.
async fn delivered(world: &World) -> u64 {
    world.scene.field.receiver.lock().await.counts().samples
}

/// What the pages say is to be done about it.
async fn replace(world: &mut World, node: usize) -> Result<()> {
    world.scene.goes_on().await.context("the others go on")?;
    world.scene.wipe(node).await?;
    let stranger = world.scene.run_wiped(node).await?;
    world.scene.replace(&stranger).await?;
    world.whole().await
}

impl Answer {
    fn name(self) -> &'static str {
        match self {
            Self::Ended => "it ended",
            Self::StoodBy => "it stood by",
            Self::WentOn => "it went on",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::process::ExitStatusExt as _;

    use rand::SeedableRng as _;

    use super::*;

    /// A folder as a node has it: each file holds its own name and a number, often enough for some pages.
    fn data(folder: &Path, number: u8) {
        let files = [
            "rocksdb/000012.sst",
            "rocksdb/000013.log",
            "rocksdb/LOG",
            "rocksdb/MANIFEST-000011",
            "rocksdb/CURRENT",
            "files/lease",
            "slots/floor",
            "lock",
            "format",
            "reserve",
        ];
        for file in files {
            let path = folder.join(file);
            std::fs::create_dir_all(path.parent().expect("a file lies somewhere")).expect("room");
            std::fs::write(path, format!("{file}{number}").repeat(1000)).expect("room");
        }
        std::fs::write(folder.join("created"), "").expect("room");
    }

    #[test]
    fn whatever_is_drawn_changes_what_it_names_and_nothing_else() {
        let mut random = SmallRng::seed_from_u64(7);
        let mut drawn = BTreeSet::new();
        for _ in 0..600 {
            let folder = tempfile::tempdir().expect("a folder");
            let [now, kept, untouched] = ["now", "kept", "untouched"].map(|name| folder.path().join(name));
            data(&now, 2);
            data(&untouched, 2);
            data(&kept, 1);
            let case = damage_one(&mut random, &now, &kept).expect("something can be damaged");
            assert!(case.has_bitten, "{:?}, {:?}", case.part, case.damage);
            drawn.insert((case.part, case.damage));
            for file in parts(&untouched).expect("it is there").into_values().flatten() {
                if file.starts_with(&case.file)
                    || case.file.starts_with(&file)
                    || untouched.join(&file).is_dir()
                {
                    continue;
                }
                let read = |folder: &Path| read_if_there(&folder.join(&file)).expect("it can be read");
                assert_eq!(read(&now), read(&untouched), "{} beside {}", file.display(), case.file.display());
            }
        }
        // Eight files with five damages each, one that is empty, and the database as a whole.
        assert_eq!(drawn.len(), 8 * 5 + 1 + 2, "{drawn:?}");
    }

    #[test]
    fn a_node_may_end_with_the_number_of_a_page_alone() {
        let (failed, aborted) = (ExitStatus::from_raw(1 << 8), ExitStatus::from_raw(6));
        let words = "HF-4105: the data directory /x is damaged: Corruption: y; replace this node";
        assert!(says_why(failed, words).is_ok());
        assert!(says_why(failed, "HF-1304: the data directory /x cannot be used").is_err());
        assert!(says_why(aborted, words).is_err() && says_why(ExitStatus::default(), words).is_err());
    }
}
