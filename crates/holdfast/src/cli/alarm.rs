//! `holdfast alarm`: what is wrong now.

use wire::proto::v1 as pb;

use super::client::Client;
use super::error::{CliError, Done};
use super::format;
use super::output::{Output, table};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum AlarmCommand {
    /// List what is wrong now, the gravest first.
    List,
}

pub(super) async fn run(mut client: Client, output: Output, command: AlarmCommand) -> Result<Done, CliError> {
    let AlarmCommand::List = command;
    let question = pb::ListAlarmsRequest { this_node: false };
    let list = client.look(question, async |admin, question| admin.list_alarms(question).await).await?;
    output.show(&list, || render(&list.alarms))?;
    Ok(Done::Well)
}

fn render(alarms: &[pb::Alarm]) -> String {
    let row = |alarm: &pb::Alarm| {
        [
            if alarm.severe { "severe" } else { "warning" }.to_owned(),
            if alarm.subject.is_empty() { "cluster".to_owned() } else { alarm.subject.clone() },
            format::moment(alarm.since.as_ref()),
            alarm.text.clone(),
        ]
    };
    table(["gravity", "subject", "since", "alarm"], alarms.iter().map(row).collect(), "No alarms.")
}
