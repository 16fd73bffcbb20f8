//! The figures of docs/performance.md: `make bench`, or one subject of it: `make bench ARGS="failover --kills 10"`.
//!
//! - Real node processes, or real replicas, on this machine and its disk. Numbers come from what simulated devices,
//!   pushers and receivers saw, and from the kernel; of a node's own word only who leads, in which term.
//! - Progress goes to the error output, the tables to the output, and into a document with `--write`.
//! - Processes and folders are gone at every end: done, failed, Ctrl-C, a panic.

mod commit;
mod disk;
mod document;
mod drain;
mod failover;
mod fates;
mod footprint;
mod latency;
mod load;
mod machine;
mod plant;
mod polling;
mod process;
mod push;
mod race;
mod replicas;
mod seen;
mod signal;
mod table;
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use futures::future::{BoxFuture, FutureExt};
use simulator::nodes::folder::Folder;
use tokio::signal::unix::{SignalKind, signal};

use table::{Figure, Section};
use world::Bench;

/// Measure what docs/performance.md promises.
///
/// Without a subject all of them but the race are measured, one after the other. Exit code 0 if every target is met.
#[derive(Debug, Parser)]
#[command(name = "holdfast-benches", version, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    subject: Option<Subject>,
    /// Short runs: everything in a few minutes, with figures that say less.
    #[arg(long, global = true)]
    quick: bool,
    /// Replace the tables of the measured subjects in this document, between its markers.
    #[arg(long, global = true, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Work in this folder, which must be empty or absent; its disk is what is measured. The default lies beside
    /// this program.
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The program to measure; the default lies beside this one.
    #[arg(long, global = true, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Leave the folder with node files, logs and data.
    #[arg(long, global = true)]
    keep: bool,
}

#[derive(Debug, Clone, Subcommand)]
enum Subject {
    /// Commands into the log of three replicas: rate and latency.
    Commit(commit::Args),
    /// Messages through `Ingest.Push` of real nodes: rate and latency.
    Push(push::Args),
    /// Five hundred devices for minutes: missed slots, processor, memory.
    Polling(polling::Args),
    /// The leader killed, cut off, relieved: the gap between reads.
    Failover(failover::Args),
    /// Bytes on disk and bytes written.
    Disk(disk::Args),
    /// A backlog delivered, and the latency of live samples.
    Drain(drain::Args),
    /// Memory of an idle node, restart with a backlog, disk given back.
    Footprint(footprint::Args),
    /// The same messages through NATS JetStream and etcd, the same devices read by thingsboard-gateway. Needs all three.
    Race(race::Args),
}

impl Subject {
    /// Those that need nothing but our own program.
    fn all() -> Vec<Self> {
        vec![
            Self::Commit(commit::Args::default()),
            Self::Push(push::Args::default()),
            Self::Polling(polling::Args::default()),
            Self::Failover(failover::Args::default()),
            Self::Disk(disk::Args::default()),
            Self::Drain(drain::Args::default()),
            Self::Footprint(footprint::Args::default()),
        ]
    }

    /// One subject for each table.
    fn parts(self) -> Vec<Self> {
        match self {
            Self::Race(args) => args.parts().into_iter().map(Self::Race).collect(),
            other => vec![other],
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Commit(_) => "commit",
            Self::Push(_) => "push",
            Self::Polling(_) => "polling",
            Self::Failover(_) => "failover",
            Self::Disk(_) => "disk",
            Self::Drain(_) => "drain",
            Self::Footprint(_) => "footprint",
            Self::Race(args) => args.name(),
        }
    }

    fn run<'a>(&'a self, bench: &'a Bench) -> BoxFuture<'a, anyhow::Result<Vec<Figure>>> {
        match self {
            Self::Commit(args) => commit::run(bench, args).boxed(),
            Self::Push(args) => push::run(bench, args).boxed(),
            Self::Polling(args) => polling::run(bench, args).boxed(),
            Self::Failover(args) => failover::run(bench, args).boxed(),
            Self::Disk(args) => disk::run(bench, args).boxed(),
            Self::Drain(args) => drain::run(bench, args).boxed(),
            Self::Footprint(args) => footprint::run(bench, args).boxed(),
            Self::Race(args) => race::run(bench, args).boxed(),
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = runtime
        .context("cannot start threads")
        .and_then(|runtime| runtime.block_on(Box::pin(measure(arguments))));
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures what is asked for. `false` if a target was missed.
async fn measure(arguments: Arguments) -> anyhow::Result<bool> {
    process::allow_many_files().context("500 devices need more open files than this shell allows")?;
    let own = std::env::current_exe().context("the path of this program is not known")?;
    let beside = own.parent().unwrap_or(Path::new("."));
    let program = arguments.program.clone().unwrap_or_else(|| beside.join("holdfast"));
    anyhow::ensure!(program.is_file(), "{} is missing: `make bench` builds it first", program.display());
    let usual = beside.join(format!("bench-{}", std::process::id()));
    let mut folder = Folder::make(arguments.dir.as_ref().unwrap_or(&usual))?;
    if arguments.keep {
        folder.keep();
    }
    clean_up_after_a_panic(folder.path().to_owned(), arguments.keep);

    let bench = Bench::new(program, folder.path().to_owned(), arguments.quick);
    let measured = tokio::select! {
        measured = Box::pin(measure_each(&arguments, &bench)) => measured,
        told = told_to_stop() => Err(told),
    };
    process::end_all_below(folder.path());
    if !arguments.keep {
        // What was cut short in this process may still be writing for a moment.
        world::clear(folder.path());
    }
    folder.remove()?;
    measured
}

async fn measure_each(arguments: &Arguments, bench: &Bench) -> anyhow::Result<bool> {
    let subjects = arguments.subject.clone().map_or_else(Subject::all, Subject::parts);
    let machine = machine::Machine::look(&bench.folder)?;
    bench.say(&machine.to_string());
    if cfg!(debug_assertions) {
        bench.say("this is no optimised build: its figures mean nothing");
    }
    let mut all_met = true;
    for subject in subjects {
        let name = subject.name();
        bench.say(&format!("== {name}"));
        let figures = subject.run(bench).await.unwrap_or_else(|error| {
            bench.say(&format!("{name} failed: {error:#}"));
            vec![Figure::failed(&format!("{error:#}"))]
        });
        let section = Section { subject: name, figures };
        print_section(&section);
        all_met &= section.is_met();
        if let Some(path) = &arguments.write {
            document::replace(path, &section, &machine.described(&document::command_line()))?;
        }
    }
    Ok(all_met)
}

#[allow(clippy::print_stdout, reason = "its output is its purpose")]
fn print_section(section: &Section) {
    println!("\n{}\n\n{}", section.subject, section.markdown());
}

async fn told_to_stop() -> anyhow::Error {
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let signals: Result<Vec<_>, _> = kinds.into_iter().map(signal).collect();
    match signals {
        Ok(mut signals) => {
            futures::future::select_all(signals.iter_mut().map(|signal| Box::pin(signal.recv()))).await;
            anyhow::anyhow!("told to stop")
        }
        Err(error) => anyhow::Error::new(error).context("signals cannot be caught"),
    }
}

/// A panic ends an optimised build at once, without destructors; nodes would outlive it.
fn clean_up_after_a_panic(folder: PathBuf, keep: bool) {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        process::end_all_below(&folder);
        if !keep {
            world::clear(&folder);
            // It is empty now, or has been complained about.
            let _ = std::fs::remove_dir(&folder);
        }
    }));
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn options_of_all_subjects_may_stand_behind_a_subject() {
        let parsed = Arguments::try_parse_from(["b", "failover", "--kills", "10", "--quick"]).expect("valid");
        assert!(parsed.quick && matches!(parsed.subject, Some(Subject::Failover(_))));
    }

    #[test]
    fn the_race_has_a_table_for_each_of_its_parts() {
        let tables = |line: &[&str]| -> Vec<&'static str> {
            let subject = Arguments::try_parse_from(line).expect("valid").subject.expect("given");
            subject.parts().iter().map(Subject::name).collect()
        };
        assert_eq!(tables(&["b", "race", "--quick"]), ["race", "race-polling"]);
        assert_eq!(tables(&["b", "race", "polling", "--seconds", "9", "--quick"]), ["race-polling"]);
    }
}
