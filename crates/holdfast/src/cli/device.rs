//! `holdfast device`: the devices of the plant and how they are doing.

use std::time::Duration;

use model::plant::units::format_duration;
use wire::proto::v1 as pb;
use wire::times::duration_to_proto;

use super::client::Client;
use super::error::{CliError, Done};
use super::format;
use super::output::{Output, table};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum DeviceCommand {
    /// List the devices: state, since when, last good answer, why, and who took one out of service.
    List,
    /// Show a device with its groups.
    Show {
        /// Its id.
        id: String,
    },
    /// Read a device now: whether it answers, and what its words say in every word order.
    #[command(
        long_about = "Read a device now, from the node that leads, and show the words with what they say in every \
        word order. Its poll groups go on meanwhile; what is read here is not recorded.\n\n\
        Examples:\n  holdfast device probe hall-2/press-1\n  \
        holdfast device probe hall-2/press-1 --address 40101 --type f32\n  \
        holdfast device probe hall-2/press-1 --address holding:110 --type string --length 16"
    )]
    Probe(ProbeArgs),
    /// Put a device back into service.
    Enable {
        /// Its id.
        id: String,
        /// Why; kept in the log.
        #[arg(long, short, default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Take a device out of service, whatever the plant document says.
    #[command(
        long_about = "Take a device out of service, whatever the plant document says. It survives failovers; \
        the reads left out are a gap with the cause `disabled`.\n\n\
        Example:\n  holdfast device disable hall-2/press-1 --reason 'tool change' --for 4h"
    )]
    Disable {
        /// Its id.
        id: String,
        /// Why; kept with it.
        #[arg(long, short)]
        reason: String,
        /// Put it back by itself after this time.
        #[arg(long = "for", value_name = "DURATION", value_parser = super::duration)]
        duration: Option<Duration>,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct ProbeArgs {
    /// Its id.
    id: String,
    /// An address, holding:100 or 40101, instead of the device's tags.
    #[arg(long, value_name = "ADDRESS", default_value = "", hide_default_value = true)]
    address: String,
    /// Type of the value there; u16 (of a bit: bool) by default.
    #[arg(
        long = "type",
        value_name = "TYPE",
        requires = "address",
        default_value = "",
        hide_default_value = true
    )]
    kind: String,
    /// Its length in bytes; string and bytes only.
    #[arg(long, value_name = "BYTES", requires = "address", default_value_t = 0, hide_default_value = true)]
    length: u32,
    /// The word order to mark in what is shown.
    #[arg(long, value_name = "ORDER", requires = "address", default_value = "", hide_default_value = true)]
    word_order: String,
    /// At most this many of the device's tags.
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: u32,
}

pub(super) async fn run(
    mut client: Client,
    output: Output,
    command: DeviceCommand,
) -> Result<Done, CliError> {
    match command {
        DeviceCommand::List => {
            let list = devices(&mut client, Vec::new()).await?;
            output.show(&list, || render_list(&list.devices))?;
        }
        DeviceCommand::Show { id } => {
            let list = devices(&mut client, vec![id]).await?;
            let Some(device) = list.devices.first() else { return Ok(Done::Badly) };
            output.show(device, || render_one(device))?;
        }
        DeviceCommand::Probe(args) => return probe(&mut client, output, args).await,
        DeviceCommand::Enable { id, reason } => {
            let question =
                pb::SetDeviceEnabledRequest { id: id.clone(), enabled: true, reason, duration: None };
            let done = client
                .change(question, async |admin, question| admin.set_device_enabled(question).await)
                .await?;
            output.show(&done, || format!("{id} is in service."))?;
        }
        DeviceCommand::Disable { id, reason, duration } => {
            let question = pb::SetDeviceEnabledRequest {
                id: id.clone(),
                enabled: false,
                reason,
                duration: duration.map(duration_to_proto),
            };
            let done = client
                .change(question, async |admin, question| admin.set_device_enabled(question).await)
                .await?;
            output.show(&done, || match duration {
                Some(duration) => format!("{id} is out of service for {}.", format::length(duration)),
                None => format!("{id} is out of service until `holdfast device enable {id}`."),
            })?;
        }
    }
    Ok(Done::Well)
}

async fn probe(client: &mut Client, output: Output, args: ProbeArgs) -> Result<Done, CliError> {
    let ProbeArgs { id, address, kind, length, word_order, limit } = args;
    let question = pb::ProbeDeviceRequest { id, address, r#type: kind, length, word_order, limit };
    let answer = client.look(question, async |admin, question| admin.probe_device(question).await).await?;
    output.show(&answer, || super::probe::render_device(&answer))?;
    Ok(if answer.answers { Done::Well } else { Done::Badly })
}

async fn devices(client: &mut Client, ids: Vec<String>) -> Result<pb::ListDevicesResponse, CliError> {
    let question = pb::ListDevicesRequest { ids, ..Default::default() };
    client.look(question, async |admin, question| admin.list_devices(question).await).await
}

fn state(device: &pb::Device) -> &'static str {
    use pb::device::State;
    match device.state() {
        State::Unspecified => "unknown",
        State::Connecting => "connecting",
        State::Answering => "answering",
        State::Down => "down",
        State::Disabled => "disabled",
        State::Pushing => "pushing",
    }
}

fn enabled(device: &pb::Device) -> String {
    match (&device.disabled, device.enabled_in_plant) {
        (Some(standing), _) => match &standing.until {
            Some(until) => {
                format!("no, until {} by {}", format::moment_short(until, format::now()), standing.principal)
            }
            None => format!("no, by {}", standing.principal),
        },
        (None, false) => "no, in the plant".to_owned(),
        (None, true) => "yes".to_owned(),
    }
}

/// How long it may take to answer, in a few words.
fn answers_within(device: &pb::Device) -> String {
    let cap = exact(device.response_cap.as_ref());
    match (device.slow, device.capped_by.is_empty()) {
        (true, _) => format!("{cap}, slow"),
        (false, true) => cap,
        (false, false) => format!("{cap} of its {}", exact(device.timeout.as_ref())),
    }
}

/// The same with the reason, and what to do about it; nothing for a device that pushes.
fn patience(device: &pb::Device) -> Option<String> {
    let timeout = exact(Some(device.timeout.as_ref()?));
    let cap = exact(device.response_cap.as_ref());
    Some(match (device.slow, device.capped_by.is_empty()) {
        (true, _) => format!("{timeout} for an answer: it is declared slow"),
        (false, true) => format!("{timeout} for an answer"),
        (false, false) => format!(
            "{cap} of its {timeout} for an answer, by {}; slow = true in the plant document gives it all",
            device.capped_by
        ),
    })
}

/// As plant documents write it.
fn exact(duration: Option<&wire::times::ProtoDuration>) -> String {
    let duration = duration.and_then(wire::times::duration_from_proto);
    duration.map_or_else(|| format::NOTHING.to_owned(), format_duration)
}

fn render_list(devices: &[pb::Device]) -> String {
    let row = |device: &pb::Device| {
        [
            device.id.clone(),
            state(device).to_owned(),
            format::moment(device.since.as_ref()),
            format::moment(device.last_good.as_ref()),
            enabled(device),
            device.tags.to_string(),
            answers_within(device),
            format::or_nothing(&device.reason),
        ]
    };
    let header = ["device", "state", "since", "last good", "enabled", "tags", "answers within", "reason"];
    table(header, devices.iter().map(row).collect(), "No devices in the plant.")
}

fn render_one(device: &pb::Device) -> String {
    let mut lines = vec![
        format!("device     {}", device.id),
        format!("driver     {} {}", device.driver, device.address),
        format!("state      {} since {}", state(device), format::moment(device.since.as_ref())),
        format!("last good  {}", format::moment(device.last_good.as_ref())),
        format!("enabled    {}", enabled(device)),
    ];
    if let Some(patience) = patience(device) {
        lines.push(format!("timeout    {patience}"));
    }
    if !device.reason.is_empty() {
        lines.push(format!("reason     {}", device.reason));
    }
    if let Some(standing) = &device.disabled {
        lines.push(format!("disabled   {}", format::standing(standing)));
    }
    if !device.description.is_empty() {
        lines.push(format!("about      {}", device.description));
    }
    let row = |group: &pb::Group| {
        let grid = if group.grid == 0 { format::NOTHING.to_owned() } else { group.grid.to_string() };
        [
            group.id.clone(),
            format::duration(group.period.as_ref()),
            group.tags.to_string(),
            grid,
            group.next_slot.to_string(),
            format::lateness(group),
        ]
    };
    let header = ["group", "period", "tags", "grid", "next slot", "late p50/p99/max"];
    lines.push(table(header, device.groups.iter().map(row).collect(), "No groups."));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_took_a_device_out_of_service_is_named() {
        let mut device = pb::Device { enabled_in_plant: true, ..pb::Device::default() };
        assert_eq!(enabled(&device), "yes");
        device.disabled = Some(pb::Standing { principal: "anna".into(), ..pb::Standing::default() });
        assert_eq!(enabled(&device), "no, by anna");
        let until = format::now().plus(Duration::from_secs(3_600));
        if let Some(standing) = &mut device.disabled {
            standing.until = Some(wire::times::timestamp_to_proto(until));
        }
        assert_eq!(enabled(&device), format!("no, until {} by anna", until.to_local_time_of_day()));
    }

    #[test]
    fn how_long_a_device_may_take_to_answer_is_shown_with_what_bounds_it() {
        let time = |millis| Some(duration_to_proto(Duration::from_millis(millis)));
        let mut device = pb::Device {
            timeout: time(1_000),
            response_cap: time(150),
            capped_by: "the lease of profile lan".into(),
            ..pb::Device::default()
        };
        assert_eq!(answers_within(&device), "150ms of its 1s");
        let shown = render_one(&device);
        assert!(
            shown.contains("150ms of its 1s for an answer, by the lease of profile lan; slow = true"),
            "{shown}"
        );
        (device.slow, device.response_cap, device.capped_by) = (true, time(1_000), String::new());
        assert_eq!(answers_within(&device), "1s, slow");
        assert!(render_one(&device).contains("it is declared slow"), "{}", render_one(&device));
        device.slow = false;
        assert_eq!(answers_within(&device), "1s");
        assert_eq!(answers_within(&pb::Device::default()), format::NOTHING, "one that pushes");
        assert!(!render_one(&pb::Device::default()).contains("timeout"));
    }

    #[test]
    fn how_late_a_group_is_read_is_shown_with_the_group() {
        let millis = |millis: i64| Some(wire::times::nanos_to_proto(millis * 1_000_000));
        let group = pb::Group {
            id: "fast".into(),
            lateness_median: millis(1),
            lateness_p99: millis(12),
            lateness_max: millis(700),
            ..pb::Group::default()
        };
        let device = pb::Device { groups: vec![group], ..pb::Device::default() };
        assert!(render_one(&device).contains("1 ms / 12 ms / 0.7 s"), "{}", render_one(&device));
        let unread = pb::Device { groups: vec![pb::Group::default()], ..pb::Device::default() };
        assert!(!render_one(&unread).contains(" ms"), "{}", render_one(&unread));
    }
}
