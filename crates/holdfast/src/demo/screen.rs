//! The live screen as text: a picture of the moment in, lines out. No terminal here.

use std::time::Duration;

use simulator::account::Figures;

/// Narrower screens are written as if they were this wide.
const LEAST_WIDTH: usize = 40;
const KEYS: &str =
    "k kill -9 the leader   p pause it   c cut its wire   s switch over   d destination off/on   q quit";

/// A moment of a demo.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Picture {
    /// How long it has run.
    pub(super) since: Duration,
    /// Who leads, and its term.
    pub(super) leader: Option<(String, u64)>,
    /// The last gap between reads that a fault made, and the fault.
    pub(super) last_gap: Option<(String, Duration)>,
    /// Figures of the account.
    pub(super) figures: Figures,
    /// Whether the HTTP receiver is there.
    pub(super) is_receiver_up: bool,
    /// What is being done to the cluster.
    pub(super) busy: Option<String>,
    /// The nodes.
    pub(super) nodes: Vec<NodeRow>,
    /// The devices.
    pub(super) devices: Vec<DeviceRow>,
    /// How to ask the nodes from another terminal.
    pub(super) endpoints: String,
    /// What happened, the oldest first.
    pub(super) journal: Vec<String>,
}

/// A node on the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeRow {
    /// Its name.
    pub(super) name: String,
    /// How its process is: `running`, `paused`, `dead`.
    pub(super) process: &'static str,
    /// What it says of leadership.
    pub(super) says: String,
}

/// A device on the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeviceRow {
    /// Its id.
    pub(super) id: String,
    /// Who read it last, and how long ago.
    pub(super) reader: Option<(String, Duration)>,
}

/// The lines of a screen of this size; never more than `height`, none wider than `width`.
pub(super) fn lines(picture: &Picture, width: usize, height: usize) -> Vec<String> {
    let mut lines = vec![format!("HOLDFAST demo, {} s", picture.since.as_secs()), String::new()];
    let leader = match &picture.leader {
        Some((name, term)) => format!("{name} (term {term})"),
        None => "nobody".to_owned(),
    };
    let gap = match &picture.last_gap {
        Some((fault, gap)) => format!("{} ms ({fault})", gap.as_millis()),
        None => "none".to_owned(),
    };
    let figures = &picture.figures;
    let receiver = if picture.is_receiver_up { "" } else { "   HTTP RECEIVER IS GONE" };
    lines.extend([
        format!("leader      {leader}"),
        format!("last gap    {gap}"),
        format!("delivered   {}   on its way {}{receiver}", figures.delivered, figures.pending),
        format!("lost        {}", figures.lost),
        format!("overlaps    {}   slots in gap records {}", figures.overlaps, figures.slots_in_gaps),
        String::new(),
    ]);
    for node in &picture.nodes {
        lines.push(format!("{:<12}{:<10}{}", node.name, node.process, node.says));
    }
    lines.push(String::new());
    for device in &picture.devices {
        let reader = match &device.reader {
            Some((node, age)) => format!("read by {node:<10} {:>5} ms ago", age.as_millis()),
            None => "not read yet".to_owned(),
        };
        lines.push(format!("{:<18}{reader}", device.id));
    }
    lines.extend([String::new(), picture.busy.clone().map_or(KEYS.to_owned(), |busy| format!("... {busy}"))]);
    lines.push(format!("in another terminal: export HOLDFAST_ENDPOINTS={}", picture.endpoints));
    lines.push(String::new());
    let room = height.saturating_sub(lines.len());
    let first = picture.journal.len().saturating_sub(room);
    lines.extend_from_slice(&picture.journal[first..]);
    lines.truncate(height);
    let width = width.max(LEAST_WIDTH);
    lines.into_iter().map(|line| line.chars().take(width).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> Picture {
        Picture {
            since: Duration::from_millis(12_700),
            leader: Some(("node-2".into(), 7)),
            last_gap: Some(("kill -9 node-1".into(), Duration::from_millis(612))),
            figures: Figures { delivered: 4_200, pending: 60, lost: 3, overlaps: 1, slots_in_gaps: 18 },
            is_receiver_up: true,
            busy: None,
            nodes: vec![NodeRow { name: "node-1".into(), process: "dead", says: "no answer".into() }],
            devices: vec![
                DeviceRow {
                    id: "hall-1/press-1".into(),
                    reader: Some(("node-2".into(), Duration::from_millis(40))),
                },
                DeviceRow { id: "hall-1/press-2".into(), reader: None },
            ],
            endpoints: "127.0.0.1:7611".into(),
            journal: (0..50).map(|number| format!("event {number}")).collect(),
        }
    }

    #[test]
    fn everything_that_matters_is_on_the_screen() {
        let text = lines(&picture(), 120, 40).join("\n");
        let wanted = [
            "12 s",
            "node-2 (term 7)",
            "612 ms (kill -9 node-1)",
            "delivered   4200   on its way 60",
            "lost        3",
            "overlaps    1   slots in gap records 18",
            "node-1      dead      no answer",
            "hall-1/press-1    read by node-2        40 ms ago",
            "hall-1/press-2    not read yet",
            "q quit",
            "HOLDFAST_ENDPOINTS=127.0.0.1:7611",
            "event 49",
        ];
        for wanted in wanted {
            assert!(text.contains(wanted), "{wanted:?} is missing in\n{text}");
        }
        assert!(!text.contains("GONE"));
    }

    #[test]
    fn a_screen_is_never_overrun() {
        for (width, height) in [(40, 5), (60, 24), (200, 60)] {
            let lines = lines(&picture(), width, height);
            assert!(lines.len() <= height, "{} lines on a screen of {height}", lines.len());
            assert!(lines.iter().all(|line| line.chars().count() <= width));
        }
    }

    #[test]
    fn what_is_being_done_takes_the_place_of_the_keys() {
        let busy = Picture { busy: Some("kill".into()), is_receiver_up: false, ..picture() };
        let text = lines(&busy, 120, 40).join("\n");
        assert!(text.contains("... kill") && !text.contains("q quit") && text.contains("RECEIVER IS GONE"));
    }
}
