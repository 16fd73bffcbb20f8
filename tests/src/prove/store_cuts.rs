//! Power cuts of a single store: a real ext4 volume loses its power under a process that writes through the real store
//! on RocksDB, and the next opening is held against what that process had said.
//!
//! - A writer says what it begins before it begins it, and what the store acknowledged: what may be found is known from
//!   that alone ([`expected`]). It is killed once the power is off, or just before.
//! - A volume goes on through many cuts, some of them while the store is opened, so that checkpoints, purged logs and
//!   old files gather; then comes a fresh one.
//! - A cut bites if something was at stake that was written and not synced ([`Stake`]): a vote or entries were begun and not
//!   acknowledged when the power went, files were gone or shorter when it came back, or the next opening found less than had
//!   been begun by then, which `cuts that took something` counts. Where a writer had just synced everything, a cut shows
//!   nothing.
//! - What is acknowledged once the power goes promises nothing. Of a sync that is under way at that moment this kernel may
//!   say that it succeeded although what it wrote is gone: ext4 waits for the data, whose end it then cannot enter any more,
//!   and reports no error. Where the power really fails nobody lives to hear it.
//! - `HOLDFAST_PROOF_UNSYNCED=1` is the control: the writer claims everything as acknowledged when it begins it, and
//!   the checks must fail.
//! - The device has no volatile cache: a flush that is missing below the file system is not seen.

mod expected;
mod files;
mod life;
mod said;
mod writer;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rand::Rng;
use runtime::random::{Random, generator};
use simulator::history::monotonic_ns;
use tokio::time::Instant;

use self::expected::{CHECKS, Counts, DURABILITY, Expected, LEDGER, VOTE, Wrong};
use self::files::Files;
use self::life::{Life, Writer, early_end};
use self::said::{Found, Said};
pub use self::writer::child;
use super::run::{Assignment, RunReport};
use crate::machine::Unable;
use crate::machine::volume::Volume;

/// As reports name it.
const CLASS: &str = "store-cuts";
/// The first argument of a writer.
const CHILD: &str = "store-child";
/// Set to 1 for a writer that lies.
const UNSYNCED: &str = "HOLDFAST_PROOF_UNSYNCED";
const VOLUME_BYTES: u64 = 256 << 20;
const CUTS_OF_A_VOLUME: u32 = 50;
/// An opening, and whatever else must come to its end.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the power fails while the store is opened, and how often the writer is killed just before.
const WHILE_OPENING: f64 = 0.1;
const KILLED_BEFORE: f64 = 0.2;

/// Cuts the power as often as it is assigned, or until a check does not hold. The program that runs now starts itself
/// as the writer, which is [`child`].
pub async fn run(assignment: &Assignment) -> Result<RunReport> {
    let writer = Writer {
        program: std::env::current_exe().context("who am I?")?,
        arguments: vec![CHILD.to_owned()],
        environment: Vec::new(),
    };
    match cut(assignment, writer).await? {
        Ok(outcome) => Ok(outcome.report(assignment.seed)),
        Err(why) => Ok(RunReport::unable(CLASS, assignment.seed, &why)),
    }
}

/// What came of it.
#[derive(Debug, Default)]
struct Outcome {
    /// What each cut could take.
    stakes: Vec<Stake>,
    counts: Counts,
    /// Writers that lost their power while they opened the store.
    while_opening: u64,
    /// From a start to the volume with power again, for each cycle.
    cycles: Vec<Duration>,
    /// The first check that does not hold.
    wrong: Option<Wrong>,
}

/// What was written and not synced when the power went: what a cut could take, or has taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Stake {
    /// A vote or entries: begun, and not acknowledged by then.
    under_way: bool,
    /// Files were gone, shorter or older ones when the power came back.
    took_files: bool,
    /// The next opening found less than had been begun by then.
    took_tail: bool,
}

impl Stake {
    fn has_bitten(self) -> bool {
        self.under_way || self.took_files || self.took_tail
    }
}

async fn cut(assignment: &Assignment, writer: Writer) -> Result<Result<Outcome, Unable>> {
    let random = generator(Some(assignment.seed));
    let mut cuts = Cuts {
        writer,
        random,
        cycle: 0,
        dark_since_ns: 0,
        files: Files::default(),
        not_found: None,
        outcome: Outcome::default(),
    };
    let mut left = assignment.times;
    while left > 0 && cuts.outcome.wrong.is_none() {
        let times = left.min(CUTS_OF_A_VOLUME);
        left -= times;
        let name = assignment.folder.join(format!("volume-{left}"));
        let volume = match Volume::make(&name.with_extension("ext4"), &name, VOLUME_BYTES) {
            Ok(volume) => volume,
            // What it could do before it can do: something else is the matter.
            Err(why) if cuts.cycle > 0 => bail!("{why}"),
            Err(why) => return Ok(Err(why)),
        };
        if let Some(wrong) = cuts.one_volume(&volume, times).await? {
            let (seed, cycle, volume) = (assignment.seed, cuts.cycle, format!("volume-{left}.ext4"));
            let text = format!("seed {seed}, cycle {cycle}, {volume}: {}", wrong.text);
            cuts.outcome.wrong = Some(Wrong { text, ..wrong });
        }
    }
    Ok(Ok(cuts.outcome))
}

fn directory(volume: &Volume) -> PathBuf {
    volume.path().join("store")
}

struct Cuts {
    writer: Writer,
    random: Random,
    /// The cut that is at hand, from 1 on.
    cycle: u32,
    /// When the power began to go last, in monotonic nanoseconds.
    dark_since_ns: u64,
    /// What was there just before.
    files: Files,
    /// The last cut of a writer that had opened the store, by its place, until it is known what is left of that.
    not_found: Option<usize>,
    outcome: Outcome,
}

/// When and how the power fails.
#[derive(Debug, Clone, Copy)]
struct Plan {
    /// Counted from the beginning of the opening, not from its end.
    while_opening: bool,
    after: Duration,
    killed_before: bool,
    /// How long the writer lives without power.
    lives_on: Duration,
}

impl Plan {
    fn draw(random: &mut Random) -> Self {
        let while_opening = random.random_bool(WHILE_OPENING);
        let after = if while_opening { random.random_range(0..80) } else { random.random_range(2..150) };
        Self {
            while_opening,
            after: Duration::from_millis(after),
            killed_before: random.random_bool(KILLED_BEFORE),
            lives_on: Duration::from_millis(random.random_range(0..30)),
        }
    }
}

impl Cuts {
    /// Cuts the power of a fresh volume, and looks at what is left after the last time.
    async fn one_volume(&mut self, volume: &Volume, times: u32) -> Result<Option<Wrong>> {
        let mut expected = Expected::default();
        let mut wrong = None;
        self.not_found = None;
        for _ in 0..times {
            self.cycle += 1;
            let began = Instant::now();
            wrong = self.one_cut(volume, &mut expected).await?;
            if wrong.is_some() {
                break;
            }
            self.outcome.cycles.push(began.elapsed());
        }
        if wrong.is_none() {
            wrong = self.look(volume, &mut expected).await?;
        }
        self.outcome.counts.add(expected.counts());
        Ok(wrong)
    }

    async fn one_cut(&mut self, volume: &Volume, expected: &mut Expected) -> Result<Option<Wrong>> {
        let plan = Plan::draw(&mut self.random);
        let began_ns = monotonic_ns();
        let mut life = Life::start(&self.writer, &directory(volume), self.random.random())?;
        let lived = self.live_and_lose_power(&mut life, plan, volume, expected).await;
        // In any case, or the volume could not be taken away.
        life.kill().await?;
        if let Some(wrong) = lived? {
            return Ok(Some(wrong));
        }
        // Whoever reads what is left has it all: the pipe outlives the writer.
        while let Some(said) = life.hear().await? {
            self.hear(said, expected);
        }
        volume.restore_power().context("the power does not come back")?;
        let took_files = Files::of(&directory(volume))?.lack(&self.files);
        let under_way = expected.is_under_way(&(began_ns..self.dark_since_ns));
        self.outcome.stakes.push(Stake { under_way, took_files, took_tail: false });
        Ok(None)
    }

    async fn live_and_lose_power(
        &mut self,
        life: &mut Life,
        plan: Plan,
        volume: &Volume,
        expected: &mut Expected,
    ) -> Result<Option<Wrong>> {
        let opens = life.until(Instant::now() + PATIENCE).await?;
        if opens != Some(Said::Opens {}) {
            return Ok(Some(early_end(opens)));
        }
        let mut moment = Instant::now() + plan.after;
        let patience = if plan.while_opening { moment } else { Instant::now() + PATIENCE };
        let is_open = match life.until(patience).await? {
            Some(Said::Found(found)) => {
                if let Err(wrong) = self.judge(&found, expected) {
                    return Ok(Some(wrong));
                }
                life.go_on().await?;
                if !plan.while_opening {
                    moment = Instant::now() + plan.after;
                }
                true
            }
            None if plan.while_opening && life.is_alive()? => false,
            other => return Ok(Some(early_end(other))),
        };
        while is_open && let Some(said) = life.until(moment).await? {
            match said {
                Said::Failed(_) => return Ok(Some(early_end(Some(said)))),
                said => expected.hear(said),
            }
        }
        if !life.is_alive()? {
            return Ok(Some(early_end(life.last().await?)));
        }
        if plan.killed_before {
            life.kill().await?;
        }
        self.files = Files::of(&directory(volume))?;
        self.dark_since_ns = monotonic_ns();
        volume.cut_power().context("the power cannot be cut")?;
        self.outcome.while_opening += u64::from(!is_open);
        if is_open {
            expected.lose_power(self.dark_since_ns);
            self.not_found = Some(self.outcome.stakes.len());
        }
        let dies = Instant::now() + plan.lives_on;
        while let Some(said) = life.until(dies).await? {
            self.hear(said, expected);
        }
        Ok(None)
    }

    /// Holds what is found against what may be; what is missing was taken by the last cut of a writer at work.
    fn judge(&mut self, found: &Found, expected: &mut Expected) -> Result<(), Wrong> {
        let before = expected.counts().lossy;
        expected.judge(found)?;
        if let Some(cut) = self.not_found.take() {
            self.outcome.stakes[cut].took_tail = expected.counts().lossy > before;
        }
        Ok(())
    }

    /// Hears what is said around a cut.
    fn hear(&self, said: Said, expected: &mut Expected) {
        if !said.is_acknowledged_since(self.dark_since_ns) {
            expected.hear(said);
        }
    }

    /// Opens the store and holds what is found against what may be.
    async fn look(&mut self, volume: &Volume, expected: &mut Expected) -> Result<Option<Wrong>> {
        let mut life = Life::start(&self.writer, &directory(volume), self.random.random())?;
        let found = life.found().await;
        life.kill().await?;
        Ok(match found? {
            Ok(found) => self.judge(&found, expected).err(),
            Err(wrong) => Some(wrong),
        })
    }
}

impl Outcome {
    fn report(self, seed: u64) -> RunReport {
        let mut report = RunReport::new(CLASS, seed);
        self.stakes.iter().for_each(|stake| report.injected(stake.has_bitten()));
        for check in CHECKS {
            match &self.wrong {
                None => report.passed(check, self.words(check)),
                Some(wrong) if wrong.check == check => report.failed(check, wrong.text.clone()),
                Some(wrong) => report.skipped(check, format!("ended by {}", wrong.check)),
            }
        }
        let Counts { entries, votes, lossy, .. } = self.counts;
        let cuts = |which: fn(&Stake) -> bool| self.stakes.iter().filter(|stake| which(stake)).count();
        let (under_way, took_files) = (cuts(|stake| stake.under_way), cuts(|stake| stake.took_files));
        let mut cycles = self.cycles;
        cycles.sort();
        let all = cycles.iter().sum::<Duration>();
        let middle = cycles.get(cycles.len() / 2).copied().unwrap_or_default();
        let minutes = all.as_secs_f64() / 60.0;
        let each_minute = if all.is_zero() { 0.0 } else { cycles.len() as f64 / minutes };
        for (name, figure) in [
            ("acknowledged entries", entries as f64),
            ("acknowledged votes", votes as f64),
            ("cuts that took something", lossy as f64),
            ("cuts that took files or ends of files", took_files as f64),
            ("cuts in the middle of a write", under_way as f64),
            ("cuts while opening", self.while_opening as f64),
            ("cycles per minute", each_minute),
            ("p50 of the cycle, ms", middle.as_secs_f64() * 1_000.0),
        ] {
            report.figures.insert(name.to_owned(), figure);
        }
        report
    }

    fn words(&self, check: &str) -> String {
        let Counts { entries, votes, truncations, purges, lossy } = self.counts;
        let cuts = self.stakes.len();
        match check {
            DURABILITY => format!(
                "{entries} acknowledged entries and {truncations} truncations over {cuts} cuts, none lost; {lossy} \
                 cuts took something that was not acknowledged"
            ),
            VOTE => format!("{votes} acknowledged votes, none forgotten"),
            LEDGER => format!("the log gave the ledger that was found each time; {purges} purges"),
            _ => format!("{cuts} openings after a cut, {} of them one more cut later", self.while_opening),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::able;
    use crate::prove::profile::Class;

    const STARTED_BY_A_TEST: &str = "HOLDFAST_PROOF_STORE_CHILD";

    /// This test program can start itself, too: as the one test that is a writer.
    fn writer(lies: bool) -> Writer {
        let (_, module) = module_path!().split_once("::").expect("it lies in a crate");
        let test = format!("{module}::a_writer_that_the_tests_beside_it_start");
        let mut environment = vec![(STARTED_BY_A_TEST, "1")];
        if lies {
            environment.push((UNSYNCED, "1"));
        }
        Writer {
            program: std::env::current_exe().unwrap(),
            arguments: ["--exact", test.as_str(), "--ignored", "--nocapture"].map(str::to_owned).to_vec(),
            environment,
        }
    }

    #[test]
    #[ignore = "is no test: it writes until it is killed"]
    fn a_writer_that_the_tests_beside_it_start() {
        if std::env::var_os(STARTED_BY_A_TEST).is_some() {
            child(&std::env::args().collect::<Vec<_>>()).unwrap();
        }
    }

    /// Cuts so many times; nothing where the machine cannot.
    async fn cut_here(times: u32, lies: bool) -> Option<Outcome> {
        let folder = tempfile::tempdir().unwrap();
        let assignment = Assignment {
            seed: 7,
            times,
            folder: folder.path().to_owned(),
            program: PathBuf::from("no other program"),
        };
        able(cut(&assignment, writer(lies)).await.unwrap())
    }

    #[tokio::test]
    async fn a_store_loses_nothing_that_it_acknowledged_when_the_power_fails() {
        let Some(outcome) = cut_here(20, false).await else { return };
        let Outcome { stakes, counts, wrong, .. } = outcome;
        assert_eq!(wrong, None);
        let bit = stakes.iter().filter(|stake| stake.has_bitten()).count();
        assert!(stakes.len() == 20 && bit >= Class::StoreCuts.must_bite(20) as usize, "{stakes:?}");
        let took = stakes.iter().filter(|stake| stake.took_tail).count();
        assert_eq!(took as u64, counts.lossy, "{stakes:?}");
        assert!(counts.entries > 20 && counts.votes > 20, "{counts:?}");
        assert!(counts.truncations > 0 && counts.lossy > 0, "{counts:?}");
    }

    #[tokio::test]
    async fn a_store_that_acknowledges_before_it_syncs_is_found_out() {
        let Some(outcome) = cut_here(30, true).await else { return };
        let wrong = outcome.wrong.expect("a lie that nobody finds out");
        assert!([DURABILITY, VOTE].contains(&wrong.check), "{wrong:?}");
    }

    #[test]
    fn a_cut_with_nothing_at_stake_has_not_bitten() {
        let stake = Stake::default();
        let all = [
            stake,
            Stake { under_way: true, ..stake },
            Stake { took_files: true, ..stake },
            Stake { took_tail: true, ..stake },
        ];
        let report = Outcome { stakes: all.to_vec(), ..Outcome::default() }.report(7);
        assert_eq!((report.injected, report.bit), (4, 3));
    }

    #[test]
    fn the_first_check_that_does_not_hold_is_the_only_one_that_failed() {
        use crate::prove::run::Verdict;
        let verdicts = |wrong| {
            let report = Outcome { wrong, stakes: vec![Stake::default()], ..Outcome::default() }.report(7);
            report.findings.iter().map(|finding| finding.verdict).collect::<Vec<_>>()
        };
        assert_eq!(verdicts(None), [Verdict::Passed; 4]);
        let wrong = Some(Wrong::new(VOTE, "so"));
        assert_eq!(verdicts(wrong), [Verdict::Skipped, Verdict::Failed, Verdict::Skipped, Verdict::Skipped]);
    }
}
