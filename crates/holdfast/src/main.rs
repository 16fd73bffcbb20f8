//! The program: `holdfast node`, `holdfast demo` and its parts, and the command line of the cluster.
//!
//! Owns the dispatch and the exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no quorum, 4 no node reached.

mod cli;
mod demo;
mod health;
mod node;
mod simulate;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// What `--version` says: whoever proves or supports a box wants to know which kind of build it runs.
const BUILT: &str = match (cfg!(debug_assertions), cfg!(panic = "abort")) {
    (true, true) => concat!(env!("CARGO_PKG_VERSION"), "\nwith debug assertions\nends at a panic"),
    (true, false) => concat!(env!("CARGO_PKG_VERSION"), "\nwith debug assertions\nunwinds at a panic"),
    (false, true) => concat!(env!("CARGO_PKG_VERSION"), "\nwithout debug assertions\nends at a panic"),
    (false, false) => concat!(env!("CARGO_PKG_VERSION"), "\nwithout debug assertions\nunwinds at a panic"),
};

/// A gateway that runs on three boxes instead of one.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, long_version = BUILT, propagate_version = true, max_term_width = 110)]
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
    Simulate(simulate::SimulateArgs),
    Health(health::HealthArgs),
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
        Command::Simulate(args) => runtime.block_on(Box::pin(simulate::run(arguments.global, args))),
        Command::Health(args) => runtime.block_on(Box::pin(health::run(args))),
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
    use std::path::Path;

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

    /// What is typed behind each `holdfast` that begins a line or a piece of code.
    fn commands(text: &str) -> Vec<Vec<&str>> {
        let begins = |at: usize| matches!(text[..at].chars().next_back(), None | Some('\n' | '`'));
        let found = text.match_indices("holdfast ").filter(|(at, _)| begins(*at));
        found
            .map(|(at, program)| {
                let typed = text[at + program.len()..].split(['\n', '`']).next().unwrap_or_default();
                typed.split_whitespace().collect()
            })
            .collect()
    }

    /// The first word that is no verb or option where it stands.
    fn unknown<'w>(words: &[&'w str]) -> Option<&'w str> {
        let root = Arguments::command();
        let mut command = &root;
        for &word in words {
            if let Some(option) = word.strip_prefix("--") {
                let has = |command: &clap::Command| {
                    command.get_arguments().any(|argument| argument.get_long() == Some(option))
                };
                if !has(command) && !has(&root) {
                    return Some(word);
                }
            } else if let Some(verb) = command.find_subcommand(word) {
                command = verb;
            } else if command.has_subcommands() {
                return Some(word);
            }
        }
        None
    }

    /// The long help of a command and its verbs. Examples in it are indented; here they begin their lines.
    fn help(command: &clap::Command, texts: &mut Vec<(String, String)>) {
        if let Some(long) = command.get_long_about() {
            texts.push((format!("help of {}", command.get_name()), long.to_string().replace("\n  ", "\n")));
        }
        for verb in command.get_subcommands() {
            help(verb, texts);
        }
    }

    #[test]
    fn every_command_that_a_page_or_an_example_names_can_be_typed() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut texts = Vec::new();
        for folder in ["", "docs", "docs/adr", "docs/errors"] {
            for entry in std::fs::read_dir(root.join(folder)).expect("it is there") {
                let path = entry.expect("it can be listed").path();
                if path.extension().is_some_and(|ending| ending == "md") {
                    let text = std::fs::read_to_string(&path).expect("it can be read");
                    texts.push((path.display().to_string(), text));
                }
            }
        }
        help(&Arguments::command(), &mut texts);
        let mut count = 0;
        for (place, text) in &texts {
            for words in commands(text) {
                assert_eq!(unknown(&words), None, "{place}: holdfast {}", words.join(" "));
                count += 1;
            }
        }
        assert!(count > 100, "saw {count} commands: is this looking in the right place?");
        assert_eq!(unknown(&["member", "exchange"]), Some("exchange"));
        assert_eq!(unknown(&["pki", "show", "--days"]), Some("--days"));
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
