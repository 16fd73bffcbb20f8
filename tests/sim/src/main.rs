//! Simulated clusters: `make sim SEEDS=1000`. One seed decides everything that happens to a cluster of real replicas, with
//! what the gateway does on them, on simulated disks, networks and clocks; what must hold is checked while it happens and after everything is mended.
//!
//! - [`mod@run`] is the course of a run, [`world`] what it consists of, [`node`] a node in it.
//! - [`faults`] and [`operator`] do things to it, [`pushers`] and [`orders`] give it work.
//! - [`field`] is the device that it reads, [`archive`] the destination that it delivers to.
//! - [`account`] is the judge.
//! - [`alone`] gives each run a process of its own, and an end.

mod account;
mod alone;
mod archive;
mod clock;
mod faults;
mod field;
mod network;
mod node;
mod operator;
mod orders;
mod panics;
mod pushers;
mod run;
mod world;

use std::env;
use std::io::{self, Write as _};
use std::num::NonZero;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;

use run::{Figures, Report, run};

/// Events that are shown of a run that failed.
const LAST: usize = 60;

/// Run simulated clusters, one for each seed. Exit code 0 if everything held in all of them.
#[derive(Debug, Parser)]
#[command(name = "holdfast-sim", version, max_term_width = 110)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 20, conflicts_with = "seed")]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1, conflicts_with = "seed")]
    first: u64,
    /// Only this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Milliseconds of simulated time in each run.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(2_000..))]
    ticks: u64,
    /// Show every event.
    #[arg(long)]
    events: bool,
    /// Run each seed twice, and compare what happened.
    #[arg(long)]
    twice: bool,
    /// Seconds after which a run that has not ended is ended, and has failed.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Runs side by side; as many as there are processors by default.
    #[arg(long)]
    jobs: Option<NonZero<usize>>,
    /// Run it in this process, and say as JSON what came of it.
    #[arg(long, hide = true, requires = "seed")]
    alone: bool,
}

/// What came of all runs so far.
#[derive(Debug, Default)]
struct Total {
    runs: u64,
    failed: Vec<u64>,
    figures: Figures,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(seed) = arguments.seed.filter(|_| arguments.alone) {
        panics::keep();
        serde_json::to_writer(io::stdout().lock(), &run(seed, arguments.ticks))?;
        return Ok(ExitCode::SUCCESS);
    }
    let began = tokio::time::Instant::now();
    let total = run_all(&arguments)?;
    tell_total(&arguments, &total, began.elapsed())?;
    Ok(if total.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn jobs(arguments: &Arguments) -> usize {
    let available = || thread::available_parallelism().map_or(1, NonZero::get);
    arguments.jobs.map_or_else(available, NonZero::get)
}

fn run_all(arguments: &Arguments) -> anyhow::Result<Total> {
    let (first, count) = arguments.seed.map_or((arguments.first, arguments.seeds), |seed| (seed, 1));
    let taken = AtomicU64::new(0);
    let total = Mutex::new(Total::default());
    let work = || -> anyhow::Result<()> {
        loop {
            let number = taken.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(());
            }
            let report = judged(first + number, arguments)?;
            let mut total = total.lock().expect("nobody panics while adding up");
            total.runs += 1;
            match &report.verdict {
                Ok(figures) => total.figures = total.figures.plus(*figures),
                Err(_) => total.failed.push(report.seed),
            }
            // Under the lock, so that two reports do not mix.
            tell(arguments, &report)?;
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs(arguments))
            .map(|_| thread::Builder::new().name("run".to_owned()).spawn_scoped(scope, work))
            .collect::<Result<_, _>>()?;
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        anyhow::Ok(())
    })?;
    total.into_inner().context("a thread panicked")
}

/// A run and, where it is to be compared, what differs in a second one.
fn judged(seed: u64, arguments: &Arguments) -> anyhow::Result<Report> {
    let mut report = run_alone(seed, arguments)?;
    // Where a seed should repeat to the last event, one is always looked at.
    let is_first = cfg!(tokio_unstable) && seed == arguments.seed.unwrap_or(arguments.first);
    if (arguments.twice || is_first) && report.verdict.is_ok() {
        let again = run_alone(seed, arguments)?;
        if let Err(violation) = again.verdict {
            return Ok(Report { verdict: Err(format!("only the second run: {violation}")), ..again });
        }
        let same = report.events.iter().zip(&again.events).take_while(|(one, other)| one == other).count();
        if report.events != again.events {
            let (one, other) = (report.events.get(same), again.events.get(same));
            report.verdict = Err(format!("two runs differ after {same} events: {one:?} and {other:?}"));
        }
    }
    Ok(report)
}

/// A run in a process of its own.
fn run_alone(seed: u64, arguments: &Arguments) -> anyhow::Result<Report> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["--alone", "--seed", &seed.to_string(), "--ticks", &arguments.ticks.to_string()]);
    alone::run(seed, command, Duration::from_secs(arguments.limit))
}

fn tell(arguments: &Arguments, report: &Report) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let shown = match (&report.verdict, arguments.events) {
        (_, true) => report.events.len(),
        (Err(_), false) => LAST,
        (Ok(_), false) => 0,
    };
    for event in &report.events[report.events.len().saturating_sub(shown)..] {
        writeln!(out, "{event}")?;
    }
    if let Err(violation) = &report.verdict {
        writeln!(out, "FAILED seed {} (repeat it with --seed {0} --events): {violation}", report.seed)?;
    }
    out.flush()
}

fn tell_total(arguments: &Arguments, total: &Total, took: Duration) -> io::Result<()> {
    let Figures { ticks, faults, processes, reigns, pushes, slots, reads, records } = total.figures;
    let minutes = took.as_secs_f64() / 60.0 * jobs(arguments) as f64;
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{} seeds, {} failed: {ticks} ms simulated, {faults} faults, {processes} processes, {reigns} reigns, {pushes} \
         pushes acknowledged, {reads} reads, {slots} records of slots, {records} records delivered; {:.0} seeds a minute \
         and core",
        total.runs,
        total.failed.len(),
        total.runs as f64 / minutes
    )?;
    if !total.failed.is_empty() {
        writeln!(out, "failed: {:?}", total.failed)?;
    }
    out.flush()
}
