//! The program: `holdfast node`, `holdfast demo`, and the command line of the cluster.
//!
//! Owns the dispatch and the exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no quorum, 4 no node reached.

mod cli;
mod demo;
mod node;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// A gateway that runs on three boxes instead of one.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, propagate_version = true, max_term_width = 110)]
#[command(
    after_help = "Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no quorum, 4 no node reached.\n\
    Every error has a code (HF-2003); docs/errors has a page for each."
)]
struct Arguments {
    #[command(flatten)]
    global: cli::GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Node(node::NodeArgs),
    Demo(demo::DemoArgs),
    #[command(flatten)]
    Cluster(cli::Command),
    #[command(flatten)]
    Files(cli::FilesCommand),
    /// Print completions for a shell.
    #[command(long_about = "Print completions for a shell.\n\nExample:\n  holdfast completions bash > \
        /etc/bash_completion.d/holdfast")]
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("cannot start threads")),
    };
    let ended = match arguments.command {
        Command::Node(args) => runtime.block_on(Box::pin(node::run(args))),
        Command::Demo(args) => runtime.block_on(Box::pin(demo::run(args))),
        Command::Cluster(command) => {
            return runtime.block_on(Box::pin(cli::run(arguments.global, command)));
        }
        Command::Files(command) => return cli::make_files(&arguments.global, &command),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "holdfast", &mut script);
            // Written at once: who reads the beginning alone, has read enough.
            drop(std::io::stdout().write_all(&script));
            Ok(ExitCode::SUCCESS)
        }
    };
    ended.unwrap_or_else(|error| fail(&error))
}

fn fail(error: &anyhow::Error) -> ExitCode {
    cli::complain(&told(error));
    ExitCode::FAILURE
}

/// An error with its causes, each said once: many say theirs themselves.
fn told(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |told, cause| match cause.to_string() {
        cause if told.contains(&cause) => told,
        cause if told.is_empty() => cause,
        cause => format!("{told}: {cause}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_verb_says_what_it_does() {
        fn check(command: &clap::Command, path: &str) {
            for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
                let path = format!("{path} {}", verb.get_name());
                assert!(verb.get_about().is_some(), "`{path}` has no help");
                for argument in verb.get_arguments() {
                    let id = argument.get_id();
                    let root = Arguments::command();
                    let is_global = root.get_arguments().any(|global| global.get_id() == id);
                    assert!(!is_global, "`{path}`: {id} is the name of an option of every verb");
                    assert!(argument.get_help().is_some(), "`{path}`: {} has no help", argument.get_id());
                }
                check(verb, &path);
            }
        }
        check(&Arguments::command(), "holdfast");
    }

    #[test]
    fn a_cause_is_said_once() {
        let cause = || std::io::Error::other("no such file");
        let says_it =
            anyhow::Error::new(cause()).context("node.toml: no such file").context("the node does not start");
        assert_eq!(told(&says_it), "the node does not start: node.toml: no such file");
        let plain = anyhow::Error::new(cause()).context("cannot read node.toml");
        assert_eq!(told(&plain), "cannot read node.toml: no such file");
    }

    #[test]
    fn global_options_may_stand_behind_the_verb() {
        let parsed =
            Arguments::try_parse_from(["holdfast", "status", "-o", "json", "--endpoints", "a:1,b:2"]);
        let parsed = parsed.expect("valid");
        assert_eq!(parsed.global.access.endpoints, ["a:1", "b:2"]);
        assert!(Arguments::try_parse_from(["holdfast", "device"]).is_err(), "a noun needs a verb");
    }
}
