//! The cluster's command line: one file for each noun, and what they share.
//!
//! - Whatever is shown goes through [`Output`], whatever is asked through [`Client`].
//! - Tables are for people; `-o json` is the messages of the admin API in proto3 JSON, a contract.

mod access;
mod alarm;
mod buffer;
mod client;
mod config;
mod destination;
mod device;
mod error;
mod event;
mod files;
mod format;
mod gap;
mod init;
mod leader;
mod member;
mod output;
mod pki;
mod probe;
mod quarantine;
mod status;
mod tag;

use std::process::ExitCode;
use std::time::Duration;

pub(crate) use access::Access;
use client::Client;
pub(crate) use error::complain;
use error::{CliError, Done};
use output::{Format, Output};

/// Options of every command that talks to the cluster.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct GlobalArgs {
    #[command(flatten)]
    pub(crate) access: access::AccessArgs,
    /// How to show what comes back.
    #[arg(long, short, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// How long one call may take; by default 15s for a question, and less than 2m for a change.
    #[arg(long, global = true, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Status(status::StatusArgs),
    /// The plant document: check it, apply it, look at its history.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// The nodes of the cluster.
    #[command(subcommand)]
    Member(member::MemberCommand),
    /// Who leads, and handing leadership over.
    #[command(subcommand)]
    Leader(leader::LeaderCommand),
    /// The devices of the plant.
    #[command(subcommand)]
    Device(device::DeviceCommand),
    /// The tags of the plant.
    #[command(subcommand)]
    Tag(tag::TagCommand),
    /// Where records are delivered.
    #[command(subcommand)]
    Destination(destination::DestinationCommand),
    /// Records that a destination refused for good.
    #[command(subcommand)]
    Quarantine(quarantine::QuarantineCommand),
    /// What is kept until it is delivered.
    #[command(subcommand)]
    Buffer(buffer::BufferCommand),
    /// Reads that did not happen, and why.
    #[command(subcommand)]
    Gap(gap::GapCommand),
    /// What happened.
    #[command(subcommand)]
    Event(event::EventCommand),
    /// What is wrong now.
    #[command(subcommand)]
    Alarm(alarm::AlarmCommand),
}

/// Commands that talk to nobody: they make files.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum FilesCommand {
    Init(init::InitArgs),
    /// Certificates: the authority of a cluster, and what it issues.
    #[command(subcommand)]
    Pki(pki::PkiCommand),
}

/// Runs a command to its exit code; says on standard error what went wrong.
pub(crate) async fn run(global: GlobalArgs, command: Command) -> ExitCode {
    ended(dispatch(global, command).await)
}

/// Where the nodes are, and our certificate for them.
pub(crate) fn reached_by(global: &GlobalArgs) -> anyhow::Result<Access> {
    global.access.resolve().map_err(|error| anyhow::Error::msg(error.to_string()))
}

/// Takes a device out of service for a while.
pub(crate) async fn disable(
    global: &GlobalArgs,
    id: &str,
    reason: &str,
    duration: Duration,
) -> anyhow::Result<()> {
    let disabling = async {
        let client = Client::new(global.access.resolve()?, global.timeout)?;
        let (id, reason, duration) = (id.to_owned(), reason.to_owned(), Some(duration));
        let command = device::DeviceCommand::Disable { id, reason, duration };
        Box::pin(device::run(client, Output::new(global.output), command)).await
    };
    let disabled: Result<Done, CliError> = disabling.await;
    disabled.map(drop).map_err(|error| anyhow::Error::msg(error.to_string()))
}

/// Makes files, to an exit code; says on standard error what went wrong.
pub(crate) fn make_files(global: &GlobalArgs, command: &FilesCommand) -> ExitCode {
    let output = Output::new(global.output);
    ended(match command {
        FilesCommand::Init(args) => init::run(output, args),
        FilesCommand::Pki(command) => pki::run(output, command),
    })
}

fn ended(done: Result<Done, CliError>) -> ExitCode {
    match done {
        Ok(done) => done.exit_code(),
        // Whoever reads our output has read enough.
        Err(CliError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            error.exit_code()
        }
    }
}

async fn dispatch(global: GlobalArgs, command: Command) -> Result<Done, CliError> {
    let output = Output::new(global.output);
    if let Command::Config(config::ConfigCommand::Validate { file }) = &command {
        return config::validate_file(output, file);
    }
    let client = Client::new(global.access.resolve()?, global.timeout)?;
    match command {
        Command::Status(args) => status::run(client, output, args).await,
        Command::Config(command) => config::run(client, output, command).await,
        Command::Member(command) => member::run(client, output, command).await,
        Command::Leader(command) => leader::run(client, output, command).await,
        Command::Device(command) => device::run(client, output, command).await,
        Command::Tag(command) => tag::run(client, output, command).await,
        Command::Destination(command) => destination::run(client, output, command).await,
        Command::Quarantine(command) => quarantine::run(client, output, command).await,
        Command::Buffer(command) => buffer::run(client, output, command).await,
        Command::Gap(command) => gap::run(client, output, command).await,
        Command::Event(command) => event::run(client, output, command).await,
        Command::Alarm(command) => alarm::run(client, output, command).await,
    }
}

/// Follows something until it fails, `duration` is over or Ctrl-C.
async fn following(
    duration: Option<Duration>,
    follow: impl Future<Output = Result<(), CliError>>,
) -> Result<(), CliError> {
    let over = runtime::sleep_until(duration.map(|duration| tokio::time::Instant::now() + duration));
    tokio::select! {
        followed = follow => followed,
        () = over => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

/// A length of time as it is written in the plant document: `500ms`, `10s`, `4h`.
fn duration(text: &str) -> Result<Duration, String> {
    model::plant::units::parse_duration(text).map_err(|error| error.to_string())
}
