//! `holdfast config`: the plant document, from a file to a revision and back.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use gateway::LeaseTimes;
use model::plant::document::{Bundle, Patience, read_bundle, read_bundle_for};
use wire::convert::validation;
use wire::proto::v1 as pb;

use super::client::Client;
use super::error::{CliError, Done};
use super::files::Names;
use super::output::{Output, table};
use super::{files, format};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say everything that is wrong with a plant document; no cluster is needed.
    #[command(
        long_about = "Say everything that is wrong with a plant document, with file, line and column.\n\
        No cluster is needed. Exits with 1 if it cannot be applied.\n\nExample:\n  holdfast config validate plant.toml"
    )]
    Validate {
        /// The document, or a folder with a plant.toml in it.
        file: PathBuf,
    },
    /// Say what applying a document would change, stop and lose.
    #[command(
        long_about = "Say what applying a document would change, stop and lose. Changes nothing. It ends with the \
        command that applies just that, and nothing if somebody else applied a revision meanwhile.\n\n\
        Example:\n  holdfast config plan plant.toml"
    )]
    Plan {
        /// The document, or a folder with a plant.toml in it.
        file: PathBuf,
    },
    /// Make a document the next revision, on all nodes at once.
    #[command(long_about = "Make a document the next revision, on all nodes at once.\n\n\
        It is checked as a whole; with any error in it nothing changes. On a terminal it asks first if something is \
        stopped or lost. It is applied to the revision that its plan was compared with: if somebody else applied one \
        meanwhile, nothing is changed.\n\n\
        What others applied before that is undone by a document without it, as the plan shows. Say with --base which \
        revision the document was made from, and it is refused instead.\n\n\
        Examples:\n  holdfast config apply plant.toml --comment 'press 4 added'\n  \
        holdfast config apply plant.toml --base 40\n  \
        holdfast config apply plant.toml --discard-backlog old-historian")]
    Apply(ApplyArgs),
    /// Print a revision as it was written, or save it with all its files.
    #[command(long_about = "Print the plant document of a revision as it was written, byte for byte.\n\n\
        Examples:\n  holdfast config get > plant.toml\n  holdfast config get --revision 40 --save old-plant/")]
    Get {
        /// Which; the one in force by default.
        #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
        revision: u64,
        /// Save all its files into this folder instead.
        #[arg(long, value_name = "FOLDER")]
        save: Option<PathBuf>,
    },
    /// List the revisions that are kept: who, when and why.
    History {
        /// At most this many, the newest.
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: u32,
    },
    /// Say what changed from one revision to another.
    #[command(long_about = "Say what changed from one revision to another.\n\n\
        Examples:\n  holdfast config diff 40 41\n  holdfast config diff 40      (to the one in force)")]
    Diff {
        /// From this revision; 0 is the empty plant.
        from: u64,
        /// To this one; the one in force by default.
        to: Option<u64>,
    },
    /// Apply the files of an earlier revision as a new one.
    #[command(
        long_about = "Apply the files of an earlier revision as a new one. The history keeps both.\n\n\
        Example:\n  holdfast config rollback 40 --comment 'wrong word order in 41'"
    )]
    Rollback {
        /// The revision to go back to.
        to: u64,
        #[command(flatten)]
        how: HowArgs,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct ApplyArgs {
    /// The document, or a folder with a plant.toml in it.
    file: PathBuf,
    /// The revision it was made from, refused if another is in force; by default the one that the plan shows.
    #[arg(long, value_name = "N")]
    base: Option<u64>,
    #[command(flatten)]
    how: HowArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct HowArgs {
    /// Why; kept with the revision.
    #[arg(long, short = 'm', default_value = "", hide_default_value = true)]
    comment: String,
    /// A destination whose undelivered records may be given up; may be repeated.
    #[arg(long, value_name = "DESTINATION")]
    discard_backlog: Vec<String>,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

pub(super) async fn run(
    mut client: Client,
    output: Output,
    command: ConfigCommand,
) -> Result<Done, CliError> {
    match command {
        ConfigCommand::Validate { file } => validate_file(output, &file),
        ConfigCommand::Plan { file } => {
            let Some(messages) = checked(output, &file)? else { return Ok(Done::Badly) };
            let plan = ask_for_plan(&mut client, messages).await?;
            output.show(&plan, || {
                let (shown, document) = (render_plan(&plan, &Names::of(&file)), file.display());
                let base = plan.base_revision;
                let discards: String =
                    plan.discards.iter().map(|name| format!(" --discard-backlog {name}")).collect();
                format!(
                    "{shown}\nTo apply just this: holdfast config apply {document} --base {base}{discards}"
                )
            })?;
            Ok(Done::Well)
        }
        ConfigCommand::Apply(args) => apply(&mut client, output, args).await,
        ConfigCommand::Get { revision, save } => get(&mut client, output, revision, save).await,
        ConfigCommand::History { limit } => {
            let question = pb::ListRevisionsRequest { limit };
            let list =
                client.look(question, async |admin, question| admin.list_revisions(question).await).await?;
            output.show(&list, || render_history(&list.revisions))?;
            Ok(Done::Well)
        }
        ConfigCommand::Diff { from, to } => {
            let question = pb::DiffConfigRequest { from, to };
            let diff =
                client.look(question, async |admin, question| admin.diff_config(question).await).await?;
            output.show(&diff, || {
                format!("revision {} to {}\n{}", diff.from, diff.to, render_changes(&diff.changes))
            })?;
            Ok(Done::Well)
        }
        ConfigCommand::Rollback { to, how } => rollback(&mut client, output, to, how).await,
    }
}

/// Says what is wrong with a document. Asks nobody.
pub(super) fn validate_file(output: Output, file: &Path) -> Result<Done, CliError> {
    validate(output, &files::load(file)?, &Names::of(file))
}

fn validate(output: Output, bundle: &Bundle, names: &Names) -> Result<Done, CliError> {
    // Which profile the cluster runs with is not known here; this is the usual one.
    let patience =
        Patience { cap: LeaseTimes::LAN.usual_operation(), by: "the lease of profile lan".to_owned() };
    let answer = validation(&read_bundle_for(bundle, Some(&patience)));
    output.show(&answer, || render_validation(&answer, names))?;
    Ok(if answer.valid { Done::Well } else { Done::Badly })
}

/// The files of a document, if it has no errors; otherwise shows them all.
fn checked(output: Output, file: &Path) -> Result<Option<Vec<pb::ConfigFile>>, CliError> {
    let bundle = files::load(file)?;
    if read_bundle(&bundle).is_err() {
        validate(output, &bundle, &Names::of(file))?;
        return Ok(None);
    }
    Ok(Some(files::to_messages(&bundle)))
}

async fn ask_for_plan(
    client: &mut Client,
    files: Vec<pb::ConfigFile>,
) -> Result<pb::PlanConfigResponse, CliError> {
    let question = pb::PlanConfigRequest { files };
    client.look(question, async |admin, question| admin.plan_config(question).await).await
}

async fn apply(client: &mut Client, output: Output, args: ApplyArgs) -> Result<Done, CliError> {
    let Some(files) = checked(output, &args.file)? else { return Ok(Done::Badly) };
    let plan = ask_for_plan(client, files.clone()).await?;
    if !output.is_json() {
        output.text(&render_plan(&plan, &Names::of(&args.file)))?;
    }
    agree(&plan, &args.how)?;
    let question = pb::ApplyConfigRequest {
        files,
        base_revision: args.base.unwrap_or(plan.base_revision),
        discard_backlog: args.how.discard_backlog,
        comment: args.how.comment,
    };
    let applied = client.change(question, async |admin, question| admin.apply_config(question).await).await?;
    output.show(&applied, || render_applied(&applied))?;
    Ok(Done::Well)
}

async fn rollback(client: &mut Client, output: Output, to: u64, how: HowArgs) -> Result<Done, CliError> {
    let question = pb::GetConfigRequest { revision: to };
    let old = client.look(question, async |admin, question| admin.get_config(question).await).await?;
    let plan = ask_for_plan(client, old.files).await?;
    if !output.is_json() {
        output.text(&render_plan(&plan, &Names::default()))?;
    }
    agree(&plan, &how)?;
    let question = pb::RollbackConfigRequest {
        to,
        base_revision: plan.base_revision,
        discard_backlog: how.discard_backlog,
        comment: how.comment,
    };
    let applied =
        client.change(question, async |admin, question| admin.rollback_config(question).await).await?;
    output.show(&applied, || render_applied(&applied))?;
    Ok(Done::Well)
}

async fn get(
    client: &mut Client,
    output: Output,
    revision: u64,
    save: Option<PathBuf>,
) -> Result<Done, CliError> {
    let question = pb::GetConfigRequest { revision };
    let found = client.look(question, async |admin, question| admin.get_config(question).await).await?;
    if let Some(folder) = save {
        let paths = files::save(&found.files, &folder)?;
        let lines: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        output.show(&found, || lines.join("\n"))?;
        return Ok(Done::Well);
    }
    if output.is_json() {
        output.show(&found, String::new)?;
        return Ok(Done::Well);
    }
    let document = found.files.iter().find(|file| file.name == Bundle::ROOT);
    output.raw(document.map_or(&[], |file| &file.content))?;
    let others: Vec<&str> =
        found.files.iter().map(|file| file.name.as_str()).filter(|name| *name != Bundle::ROOT).collect();
    if !others.is_empty() {
        let note = format!("note: --save FOLDER also gives the files beside it: {}", others.join(", "));
        writeln!(io::stderr(), "{note}")?;
    }
    Ok(Done::Well)
}

/// Asks, on a terminal, if something is stopped or lost.
fn agree(plan: &pb::PlanConfigResponse, how: &HowArgs) -> Result<(), CliError> {
    if how.yes || plan.effects.is_empty() || !io::stdin().is_terminal() {
        return Ok(());
    }
    let mut stderr = io::stderr();
    write!(stderr, "Apply? [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(CliError::Declined),
    }
}

fn render_diagnostics(diagnostics: &[pb::Diagnostic], names: &Names) -> Vec<String> {
    let one = |found: &pb::Diagnostic| {
        let severity = match found.severity() {
            pb::diagnostic::Severity::Warning => "warning",
            _ => "error",
        };
        let place = format!("{}:{}:{}", names.name(&found.file), found.line, found.column);
        let help = if found.help.is_empty() { String::new() } else { format!("\n  help: {}", found.help) };
        format!("{place}: {severity}: {}{help}", found.message)
    };
    diagnostics.iter().map(one).collect()
}

fn render_validation(answer: &pb::ValidateConfigResponse, names: &Names) -> String {
    let mut lines = render_diagnostics(&answer.diagnostics, names);
    let is_error = |found: &&pb::Diagnostic| found.severity() == pb::diagnostic::Severity::Error;
    let errors = answer.diagnostics.iter().filter(is_error).count() as u64 + answer.more_errors;
    lines.push(match answer.valid {
        true => format!("valid: {}", summary(answer.devices, answer.tags, answer.destinations)),
        false => format!("{errors} {}, nothing was changed", if errors == 1 { "error" } else { "errors" }),
    });
    lines.join("\n")
}

fn render_plan(plan: &pb::PlanConfigResponse, names: &Names) -> String {
    let mut lines = render_diagnostics(&plan.warnings, names);
    lines.push(format!("Compared with revision {}:", plan.base_revision));
    lines.push(render_changes(&plan.changes));
    if !plan.effects.is_empty() {
        lines.push("Stopped or lost:".to_owned());
        lines.extend(plan.effects.iter().map(|effect| format!("  {}", effect.text)));
    }
    if !plan.discards.is_empty() {
        let flags: Vec<String> = plan.discards.iter().map(|id| format!("--discard-backlog {id}")).collect();
        lines.push(format!("To give that backlog up: {}", flags.join(" ")));
    }
    lines.join("\n")
}

fn render_changes(changes: &[pb::ConfigChange]) -> String {
    use pb::config_change::Action;
    if changes.is_empty() {
        return "No changes.".to_owned();
    }
    let mut lines = Vec::new();
    for change in changes {
        let sign = match change.action() {
            Action::Added => '+',
            Action::Removed => '-',
            Action::Changed | Action::Unspecified => '~',
        };
        let id = if change.id.is_empty() { String::new() } else { format!(" {}", change.id) };
        let summary =
            if change.summary.is_empty() { String::new() } else { format!(" ({})", change.summary) };
        lines.push(format!("{sign} {}{id}{summary}", change.subject));
        lines.extend(
            change.fields.iter().map(|field| format!("    {}: {} -> {}", field.field, field.old, field.new)),
        );
    }
    let number = |action: Action| changes.iter().filter(|change| change.action() == action).count();
    let (added, changed, removed) = (number(Action::Added), number(Action::Changed), number(Action::Removed));
    lines.push(format!("{added} to add, {changed} to change, {removed} to remove."));
    lines.join("\n")
}

fn render_applied(applied: &pb::ApplyConfigResponse) -> String {
    match applied.changed {
        true => format!("Revision {} is in force.", applied.revision),
        false => format!("Revision {} is in force already, byte for byte.", applied.revision),
    }
}

fn render_history(revisions: &[pb::Revision]) -> String {
    let row = |revision: &pb::Revision| {
        [
            revision.number.to_string(),
            format::moment(revision.at.as_ref()),
            format::or_nothing(&revision.principal),
            summary(revision.devices, revision.tags, revision.destinations),
            format::or_nothing(&revision.comment),
        ]
    };
    let rows = revisions.iter().map(row).collect();
    table(
        ["rev", "applied", "by", "plant", "comment"],
        rows,
        "No revision yet: holdfast config apply plant.toml",
    )
}

fn summary(devices: u32, tags: u32, destinations: u32) -> String {
    format!("{devices} devices, {tags} tags, {destinations} destinations")
}

#[cfg(test)]
mod tests {
    use wire::convert::diagnostics;

    use super::*;

    #[test]
    fn every_error_of_a_document_is_shown_with_its_place() {
        let bundle = Bundle::of_document("version = 1\ncolour = 3\n[[device]]\nid = \"a b\"\n");
        let errors = read_bundle(&bundle).expect_err("it has errors");
        let answer = pb::ValidateConfigResponse { diagnostics: diagnostics(&errors), ..Default::default() };
        let text = render_validation(&answer, &Names::default());
        assert!(text.starts_with("plant.toml:2:1: error:"), "{text}");
        assert_eq!(text.matches(": error:").count(), errors.errors().count());
        assert_eq!(text.matches(": warning:").count(), errors.warnings().count());
        assert!(text.ends_with("errors, nothing was changed"), "{text}");
    }

    #[test]
    fn a_timeout_that_promises_more_than_the_lease_gives_is_a_warning() {
        let document = |more: &str| {
            format!(
                "version = 1\n[[device]]\nid = \"press\"\ndriver = \"modbus-tcp\"\naddress = \"h:502\"\nperiod = \"1s\"\n\
                 tag = [{{ name = \"p\", address = \"40001\", type = \"u16\" }}]\n\
                 [[destination]]\nid = \"h\"\nkind = \"http\"\nurl = \"http://h\"\n[defaults]\n{more}\n"
            )
        };
        let patience =
            Patience { cap: LeaseTimes::LAN.usual_operation(), by: "the lease of profile lan".into() };
        let warnings = |more: &str| {
            let bundle = Bundle::of_document(document(more));
            let read = read_bundle_for(&bundle, Some(&patience)).unwrap_or_else(|errors| panic!("{errors}"));
            render_diagnostics(&diagnostics(&read.warnings), &Names::default())
        };
        let warned = warnings("timeout = \"1s\"");
        assert_eq!(warned.len(), 1, "{warned:?}");
        assert!(
            warned[0].starts_with(
                "plant.toml:13:11: warning: a device has 150ms of this timeout of 1s to answer in, by the lease of profile lan"
            ) && warned[0].contains("slow = true"),
            "{warned:?}"
        );
        for fits in ["timeout = \"150ms\"", "timeout = \"1s\"\nslow = true", ""] {
            assert_eq!(warnings(fits), Vec::<String>::new(), "{fits}");
        }
    }

    #[test]
    fn a_plan_begins_with_its_base_and_ends_with_what_is_stopped_or_lost() {
        let plan = pb::PlanConfigResponse {
            changes: vec![pb::ConfigChange {
                subject: "destination".into(),
                id: "historian".into(),
                action: pb::config_change::Action::Removed.into(),
                summary: "http".into(),
                fields: Vec::new(),
            }],
            effects: vec![pb::ConfigEffect {
                text: "destination historian: what it has not acknowledged is discarded".into(),
                ..pb::ConfigEffect::default()
            }],
            discards: vec!["historian".into()],
            base_revision: 41,
            ..pb::PlanConfigResponse::default()
        };
        assert_eq!(
            render_plan(&plan, &Names::default()),
            "Compared with revision 41:\n- destination historian (http)\n0 to add, 0 to change, 1 to remove.\nStopped or lost:\n  \
             destination historian: what it has not acknowledged is discarded\n\
             To give that backlog up: --discard-backlog historian"
        );
    }
}
